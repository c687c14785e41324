/* bin/joey and bin/python3 of the host kit: starts the kit's interpreter by the kit's own loader, from wherever the
 * kit was unpacked. The file's name decides what is started. Static, so it needs nothing of the host.
 *
 *   joey ARGS     -> lib/ld-musl --library-path lib --argv0 bin/python3 bin/python3.11 -I -S lib/joey-main ARGS
 *   python3 ARGS  -> lib/ld-musl --library-path lib --argv0 bin/python3 bin/python3.11 ARGS
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LONGEST = 4096 };

static int fail(const char *what, int error)
{
    fprintf(stderr, "joey: the host kit does not start: %s: %s\n", what, strerror(error));
    return 1;
}

int main(int argc, char **argv)
{
    static char loader[LONGEST + 64], library[LONGEST + 64], name[LONGEST + 64], python[LONGEST + 64], script[LONGEST + 64];
    char top[LONGEST];
    ssize_t length = readlink("/proc/self/exe", top, sizeof top - 1); /* behind any symbolic link */
    if (length < 0) return fail("readlink /proc/self/exe (is /proc mounted?)", errno);
    top[length] = 0;
    int is_python = strstr(strrchr(top, '/'), "/python") != NULL;
    for (int level = 0; level < 2; level++) {
        char *slash = strrchr(top, '/');
        if (!slash) return fail(top, ENOENT);
        *slash = 0;
    }
    snprintf(loader, sizeof loader, "%s/lib/ld-musl-x86_64.so.1", top);
    snprintf(library, sizeof library, "%s/lib", top);
    snprintf(name, sizeof name, "%s/bin/python3", top);
    snprintf(python, sizeof python, "%s/bin/python3.11", top);
    snprintf(script, sizeof script, "%s/lib/joey-main", top);

    char **words = malloc((argc + 10) * sizeof *words);
    if (!words) return fail("malloc", ENOMEM);
    char **next = words;
    *next++ = loader;
    *next++ = "--library-path";
    *next++ = library;
    *next++ = "--argv0";
    *next++ = name;
    *next++ = python;
    if (!is_python) {
        *next++ = "-I";
        *next++ = "-S";
        *next++ = script;
    }
    for (int place = 1; place < argc; place++) *next++ = argv[place];
    *next = NULL;
    execv(loader, words);
    return fail(loader, errno);
}
