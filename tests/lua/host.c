/* host.c: runs Lua test scripts inside the generator's own sandbox. A script calls check(name, ok), ok a boolean; an
 * error that ends it is one more failed check.
 * usage: lua_host [FILE.lua...]     (from the repository's root; default: tests/lua/ *.lua) */
#include <glob.h>
#include <stdlib.h>
#include "check.h"
#include "internal.h"

static char *read_file(const char *path, size_t *length)
{
    cj_text text = {0};
    char *result = NULL, part[4096];
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;)
        cj_text_add(&text, part, n);
    bool complete = !ferror(file);
    fclose(file);
    *length = text.length;
    if (!complete || cj_text_take(&text, &result) != CONVJIT_OK)
        cj_text_free(&text);
    return result;
}

static void on_check(void *path, const char *name, bool ok)
{
    CHECK_THAT(ok, "%s: %s", (const char *)path, name);
}

/* Each script has a state of its own. */
static void run_script(char *path)
{
    size_t length = 0;
    char *text = read_file(path, &length), chunk[512];
    cj_script *script = NULL;
    snprintf(chunk, sizeof chunk, "@%s", path);
    int before = check_passed + check_failed;
    CHECK_THAT(text, "cannot read %s", path);
    CHECK_OK(cj_script_open(&script, NULL));
    if (text && script) {
        CHECK_OK(cj_script_run(script, text, length, chunk, on_check, path));
        CHECK_THAT(check_passed + check_failed > before + 3, "%s checks nothing", path);
    }
    cj_script_close(script);
    free(text);
}

int main(int argc, char **argv)
{
    glob_t found = {0};
    if (argc < 2 && glob("tests/lua/*.lua", 0, NULL, &found) != 0)
        fprintf(stderr, "no tests/lua/*.lua here: run this from the repository's root\n");
    for (int i = 1; i < argc; i++)
        run_script(argv[i]);
    for (size_t i = 0; i < found.gl_pathc; i++)
        run_script(found.gl_pathv[i]);
    if (argc < 2)
        globfree(&found);
    return check_done("lua");
}
