/* A calculator: what its four files share. */
#ifndef CALC_H
#define CALC_H

#include <stdbool.h>

enum kind { END, NUMBER, NAME, OPERATOR, WRONG };

struct token {
	enum kind kind;
	char operator;
	double number;
	char name[16];
};

struct scanner {
	const char *at;
	struct token token;
};

/* Takes the next token from the text. */
void scan(struct scanner *scanner);

/* Evaluates a whole text; false if it is no expression. */
bool evaluate(const char *text, double *ret);

/* Applies a function by its name; false if there is none. */
bool apply(const char *name, double value, double *ret);

/* Prints a number as short as it can be read back. */
void show(double value);

#endif
