/* main_cache.c: the commands that look at this installation: cache and info. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "main.h"

static const char cache_help[] =
    "usage: convjit cache ls [--json]               list the entries of the cache directory: kernels, and selections,\n"
    "                                               which tell what kernel serves a problem\n"
    "       convjit cache verify                    check every entry; exit status 1 if one is damaged\n"
    "       convjit cache prune [--max-size SIZE]   remove damaged entries, selections whose kernel is gone, and left-\n"
    "                                               over temporary files; then the oldest entries until\n"
    "                                               SIZE bytes are left (suffixes K, M, G)\n"
    "       convjit cache clear                     remove every entry\n"
    "       convjit cache export FILE               write all entries into one bundle file\n"
    "       convjit cache import FILE               add a bundle's entries\n";

typedef struct cache_options { bool json; uint64_t max_size; const char *file; } cache_options;

static bool parse_size(const char *text, uint64_t *out)
{
    static const char suffixes[] = "KMG";
    size_t digits = strspn(text, "0123456789");
    const char *suffix = text[digits] ? strchr(suffixes, text[digits]) : NULL;
    char number[24];
    int shift = suffix ? 10 * (int)(suffix - suffixes + 1) : 0;
    if (digits == 0 || digits >= sizeof number || (text[digits] && (!suffix || text[digits + 1])))
        return false;
    memcpy(number, text, digits);
    number[digits] = 0;
    if (!parse_count(number, UINT64_MAX >> shift, out))
        return false;
    *out <<= shift;
    return true;
}

/* ---- ls and verify ---- */

static const char *kind_of(const cj_cache_entry *e)
{
    return e->selection ? "selection" : "kernel";
}

static void print_entry(const cj_cache_entry *e)
{
    char when[32];
    time_t t = (time_t)e->mtime;
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
    if (e->status == CONVJIT_OK)
        printf("%9llu  %s  %-9s  %-7s %s  %s\n", (unsigned long long)e->bytes, when, kind_of(e), e->arch, e->tuple,
               e->schedule);
    else
        printf("%9llu  %s  damaged %s: %s\n", (unsigned long long)e->bytes, when, e->file, e->damage);
}

static void add_member(cj_text *t, const char *key, const char *value)
{
    cj_text_printf(t, ", \"%s\": ", key);
    if (value)
        cj_text_json(t, value);
    else
        cj_text_puts(t, "null");
}

static int print_entries_json(const cj_cache_entry *entries, size_t n)
{
    cj_text t = { 0 };
    char *out;
    cj_text_puts(&t, "[");
    for (size_t i = 0; i < n; i++) {
        const cj_cache_entry *e = &entries[i];
        cj_text_puts(&t, i ? ",\n {\"file\": " : "\n {\"file\": ");
        cj_text_json(&t, e->file);
        add_member(&t, "kind", kind_of(e));
        add_member(&t, e->selection ? "problem" : "tuple", e->tuple);
        add_member(&t, "schedule", e->schedule);
        add_member(&t, "arch", e->arch);
        cj_text_printf(&t, ", \"bytes\": %llu, \"mtime\": %lld", (unsigned long long)e->bytes, (long long)e->mtime);
        add_member(&t, "damage", e->status == CONVJIT_OK ? NULL : e->damage);
        cj_text_puts(&t, "}");
    }
    cj_text_puts(&t, n ? "\n]\n" : "]\n");
    if (cj_text_take(&t, &out) != CONVJIT_OK) {
        complain("out of memory");
        return EXIT_FAILURE;
    }
    fputs(out, stdout);
    free(out);
    return EXIT_SUCCESS;
}

static int list_entries(cj_cache *c, cj_cache_entry **entries, size_t *n)
{
    if (cj_cache_list(c, entries, n) == CONVJIT_OK)
        return EXIT_SUCCESS;
    complain("%s", convjit_errmsg());
    return EXIT_FAILURE;
}

static int cache_ls(convjit *cj, const cache_options *o)
{
    cj_cache_entry *entries;
    size_t n;
    int status = list_entries(cj_context_cache(cj), &entries, &n);
    if (status != EXIT_SUCCESS)
        return status;
    if (o->json)
        status = print_entries_json(entries, n);
    else
        for (size_t i = 0; i < n; i++)
            print_entry(&entries[i]);
    cj_cache_list_free(entries, n);
    return status;
}

static int cache_verify(convjit *cj, const cache_options *o)
{
    cj_cache_entry *entries;
    size_t n, damaged = 0;
    int status = list_entries(cj_context_cache(cj), &entries, &n);
    if (status != EXIT_SUCCESS)
        return status;
    for (size_t i = 0; i < n; i++) {
        if (entries[i].status == CONVJIT_OK)
            continue;
        complain("%s: %s", entries[i].file, entries[i].damage);
        damaged++;
    }
    cj_cache_list_free(entries, n);
    printf("%zu entries, %zu damaged\n", n, damaged);
    return damaged ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- prune, clear, export, import ---- */

static int done(convjit_status status, const char *what, size_t entries)
{
    if (status != CONVJIT_OK) {
        complain("%s", convjit_errmsg());
        return EXIT_FAILURE;
    }
    printf("%s %zu %s\n", what, entries, entries == 1 ? "entry" : "entries");
    return EXIT_SUCCESS;
}

static int cache_prune(convjit *cj, const cache_options *o)
{
    size_t n = 0;
    convjit_status status = cj_cache_prune(cj_context_cache(cj), o->max_size, &n);
    if (status == CONVJIT_OK)
        return printf("removed %zu %s\n", n, n == 1 ? "file" : "files"), EXIT_SUCCESS;
    return done(status, "", n);
}

static int cache_clear(convjit *cj, const cache_options *o)
{
    size_t n = 0;
    convjit_status status = cj_cache_clear(cj_context_cache(cj), &n);
    return done(status, "removed", n);
}

static int cache_export(convjit *cj, const cache_options *o)
{
    size_t n = 0;
    convjit_status status = convjit_cache_export(cj, o->file, &n);
    return done(status, "exported", n);
}

static int cache_import(convjit *cj, const cache_options *o)
{
    size_t n = 0;
    convjit_status status = convjit_cache_import(cj, o->file, &n);
    return done(status, "imported", n);
}

static const struct action {
    const char *name;
    int (*run)(convjit *cj, const cache_options *o);
    const char *option; /* the one option that it takes, or NULL */
    bool file;          /* takes a FILE */
} actions[] = {
    { "ls", cache_ls, "json", false },     { "verify", cache_verify, NULL, false },
    { "prune", cache_prune, "max-size", false }, { "clear", cache_clear, NULL, false },
    { "export", cache_export, NULL, true }, { "import", cache_import, NULL, true },
};

static const struct action *find_action(const char *name)
{
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(actions[i].name, name) == 0)
            return &actions[i];
    return NULL;
}

static int run_action(const struct action *a, const cache_options *o)
{
    convjit *cj = open_context(NULL);
    const char *why = NULL;
    if (!cj)
        return EXIT_FAILURE;
    int status = EXIT_FAILURE;
    if (cj_cache_dir(cj_context_cache(cj), &why))
        status = a->run(cj, o);
    else
        complain("no cache directory: %s", why ? why : "set CONVJIT_CACHE_DIR");
    convjit_close(cj);
    return status;
}

int command_cache(int argc, char **argv)
{
    static const struct option options[] = {
        { "json", no_argument, NULL, 'j' },
        { "max-size", required_argument, NULL, 'm' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    cache_options o = { 0 };
    const char *given = NULL;
    for (int c; (c = next_option(argc, argv, "h", options)) != -1;)
        switch (c) {
        case 'j': o.json = true; given = "json"; break;
        case 'm':
            given = "max-size";
            if (!parse_size(optarg, &o.max_size) || o.max_size == 0)
                return wrong_use("cache", "--max-size is a number of bytes such as 500M, not '%s'", optarg);
            break;
        case 'h': fputs(cache_help, stdout); return EXIT_SUCCESS;
        default: return EXIT_USAGE;
        }
    if (optind == argc)
        return wrong_use("cache", "cache needs one of ls, verify, prune, clear, export, import");
    const struct action *a = find_action(argv[optind]);
    if (!a)
        return wrong_use("cache", "unknown cache command '%s'", argv[optind]);
    if (argc - optind - 1 != (a->file ? 1 : 0))
        return wrong_use("cache", a->file ? "cache %s takes one file" : "cache %s takes no argument", a->name);
    if (given && (!a->option || strcmp(given, a->option) != 0))
        return wrong_use("cache", "cache %s takes no --%s", a->name, given);
    o.file = a->file ? argv[optind + 1] : NULL;
    return run_action(a, &o);
}

/* ---- info ---- */

static const char info_help[] =
    "usage: convjit info [--json]\n"
    "Says what is installed and what was found: version, cache directories, NVRTC, driver, GPU, the emulated device's compiler.\n";

static int show_info(bool as_json)
{
    convjit *cj = open_context(NULL);
    char *text = NULL;
    if (!cj)
        return EXIT_FAILURE;
    convjit_status status = convjit_info(cj, &text);
    json *j = status == CONVJIT_OK && !as_json ? json_parse(text) : NULL;
    if (status != CONVJIT_OK)
        complain("%s", convjit_errmsg());
    else if (j)
        json_print(j, 0);
    else
        puts(text);
    json_free(j);
    convjit_free(text);
    convjit_close(cj);
    return status == CONVJIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

int command_info(int argc, char **argv)
{
    static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { "help", no_argument, NULL, 'h' }, { 0 } };
    bool as_json = false;
    for (int c; (c = next_option(argc, argv, "h", options)) != -1;)
        switch (c) {
        case 'j': as_json = true; break;
        case 'h': fputs(info_help, stdout); return EXIT_SUCCESS;
        default: return EXIT_USAGE;
        }
    if (optind < argc)
        return wrong_use("info", "info takes no argument");
    return show_info(as_json);
}
