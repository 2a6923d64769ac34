#include <math.h>

#include "calc.h"

static bool sum(struct scanner *scanner, double *ret);

static bool is(const struct scanner *scanner, char operator)
{
	return scanner->token.kind == OPERATOR && scanner->token.operator == operator;
}

static bool bracket(struct scanner *scanner, double *ret)
{
	if (!is(scanner, '('))
		return false;
	scan(scanner);
	if (!sum(scanner, ret) || !is(scanner, ')'))
		return false;
	scan(scanner);
	return true;
}

static bool primary(struct scanner *scanner, double *ret)
{
	struct token token = scanner->token;

	if (token.kind == NUMBER) {
		*ret = token.number;
		scan(scanner);
		return true;
	}
	if (token.kind != NAME)
		return bracket(scanner, ret);
	double value;

	scan(scanner);
	return bracket(scanner, &value) && apply(token.name, value, ret);
}

static bool power(struct scanner *scanner, double *ret)
{
	double exponent;

	if (is(scanner, '-')) {
		scan(scanner);
		if (!power(scanner, ret))
			return false;
		*ret = -*ret;
		return true;
	}
	if (!primary(scanner, ret))
		return false;
	if (!is(scanner, '^'))
		return true;
	scan(scanner);
	if (!power(scanner, &exponent))
		return false;
	*ret = pow(*ret, exponent);
	return true;
}

static bool product(struct scanner *scanner, double *ret)
{
	if (!power(scanner, ret))
		return false;
	while (is(scanner, '*') || is(scanner, '/')) {
		const char operator = scanner->token.operator;
		double right;

		scan(scanner);
		if (!power(scanner, &right))
			return false;
		*ret = operator == '*' ? *ret * right : *ret / right;
	}
	return true;
}

static bool sum(struct scanner *scanner, double *ret)
{
	if (!product(scanner, ret))
		return false;
	while (is(scanner, '+') || is(scanner, '-')) {
		const char operator = scanner->token.operator;
		double right;

		scan(scanner);
		if (!product(scanner, &right))
			return false;
		*ret = operator == '+' ? *ret + right : *ret - right;
	}
	return true;
}

bool evaluate(const char *text, double *ret)
{
	struct scanner scanner = { .at = text };

	scan(&scanner);
	return sum(&scanner, ret) && scanner.token.kind == END;
}
