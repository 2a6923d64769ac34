/* Prints the effective user, the effective group, and the effective capabilities (hexadecimal) that exec gave. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	char line[256], capabilities[32] = "";
	FILE *status = fopen("/proc/self/status", "r");

	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, "CapEff:", 7))
			sscanf(line + 7, "%31s", capabilities);
	printf("%u %u %s\n", geteuid(), getegid(), strspn(capabilities, "0") == strlen(capabilities) ? "0" : capabilities);
	return 0;
}
