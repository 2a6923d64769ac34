/* Reads a directory, then returns to every 997th position from the last to the first: each must hold the same name. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 200000 };

int main(int argc, char **argv)
{
	static char names[MOST][64];
	static long positions[MOST];
	DIR *directory = opendir(argc > 1 ? argv[1] : ".");
	struct dirent *entry;
	int count = 0;

	if (!directory)
		return perror("opendir"), 1;
	for (;;) {
		positions[count] = telldir(directory);
		entry = readdir(directory);
		if (!entry || count == MOST - 1)
			break;
		snprintf(names[count++], sizeof(names[0]), "%s", entry->d_name);
	}
	for (int at = count - 1; at >= 0; at -= 997) {
		seekdir(directory, positions[at]);
		entry = readdir(directory);
		if (!entry || strcmp(entry->d_name, names[at])) {
			fprintf(stderr, "position %d of %d: %s, not %s\n", at, count, entry ? entry->d_name : "nothing", names[at]);
			return 1;
		}
	}
	return 0;
}
