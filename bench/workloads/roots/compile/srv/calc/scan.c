#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "calc.h"

static void scan_name(struct scanner *scanner)
{
	size_t length = 0;

	while (isalpha((unsigned char)scanner->at[length]))
		length++;
	scanner->token.kind = length < sizeof(scanner->token.name) ? NAME : WRONG;
	if (scanner->token.kind == NAME) {
		memcpy(scanner->token.name, scanner->at, length);
		scanner->token.name[length] = '\0';
	}
	scanner->at += length;
}

void scan(struct scanner *scanner)
{
	struct token *token = &scanner->token;

	while (isspace((unsigned char)*scanner->at))
		scanner->at++;
	if (*scanner->at == '\0') {
		token->kind = END;
	} else if (isdigit((unsigned char)*scanner->at)) {
		char *end;

		token->kind = NUMBER;
		token->number = strtod(scanner->at, &end);
		scanner->at = end;
	} else if (isalpha((unsigned char)*scanner->at)) {
		scan_name(scanner);
	} else {
		token->kind = strchr("+-*/^()", *scanner->at) ? OPERATOR : WRONG;
		token->operator = *scanner->at++;
	}
}
