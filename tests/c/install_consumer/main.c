/* The smallest user of an installed libdwcp: prints the version that it runs with. */
#include <dwcp.h>
#include <stdio.h>

int main(void)
{
    printf("%s\n", dwcp_version());
    return 0;
}
