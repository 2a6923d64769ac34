#include <stdio.h>

#include "calc.h"

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		double value;

		if (!evaluate(argv[i], &value)) {
			fprintf(stderr, "calc: no expression: %s\n", argv[i]);
			return 1;
		}
		show(value);
	}
	return 0;
}
