#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calc.h"

static const struct {
	const char *name;
	double (*function)(double);
} functions[] = {
	{ "sqrt", sqrt }, { "exp", exp }, { "log", log }, { "sin", sin }, { "cos", cos }, { "floor", floor },
};

bool apply(const char *name, double value, double *ret)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		if (strcmp(functions[i].name, name) == 0) {
			*ret = functions[i].function(value);
			return true;
		}
	}
	return false;
}

void show(double value)
{
	char text[32];

	for (int digits = 1; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	puts(text);
}
