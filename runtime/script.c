/* script.c: the generator's sandbox, through which problems go in and kernels come out. The only file that knows Lua.
 *
 * What a script may do is decided by what it can name. Its global names are a sealed table of functions that are pure:
 * no files, no clock, no random numbers, no addresses, no order of a hash table (but host.next, which gen/strict.lua
 * sorts). Memory and the number of VM instructions are limited, so a runaway script is an error and not a hung program.
 *
 * Every call into Lua is run(): protected, counted, in the "C" locale. A failure is put into words inside the protected
 * call (where memory may run out safely), which leaves only a mark on Lua's stack; the state stays usable.
 *
 * For developers and tests: when the environment variable CONVJIT_GEN_DIR is set, scripts and templates are read from
 * the gen/ and templates/ of that directory and not from the copies embedded in the library. Cache keys cover the
 * generated source, so this cannot mix up kernels. */
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>
#include "internal.h"

enum {
    MEMORY_LIMIT = 256 << 20,   /* bytes a state may hold */
    STEP_LIMIT = 200000000,     /* VM instructions in one call, some seconds; a kernel takes a few 100 000 */
    HOOK_STEP = 10000           /* VM instructions between two looks at the count */
};

struct cj_script {
    lua_State *L;
    locale_t c_locale;
    char *dir;                  /* CONVJIT_GEN_DIR, or NULL */
    void *(*alloc)(void *user, void *memory, size_t old_size, size_t new_size);
    void *alloc_user;
    size_t used;                /* bytes that Lua holds */
    bool over_memory;           /* the last allocation that failed was refused by MEMORY_LIMIT */
    long steps;                 /* VM instructions in this call */
    convjit_status status;      /* of the failure that FAILED stands for */
};

/* Registry keys and marks: their addresses count. */
static char MODULES, FAILED;

static cj_script *script_of(lua_State *L)
{
    return *(cj_script **)lua_getextraspace(L);
}

/* ---- Limits ---- */

static void *allocate(void *user, void *memory, size_t old_size, size_t new_size)
{
    cj_script *s = user;
    if (!memory)
        old_size = 0; /* Lua passes the kind of object there */
    if (new_size > old_size && new_size - old_size > MEMORY_LIMIT - s->used) {
        s->over_memory = true;
        return NULL;
    }
    if (!memory && new_size == 0)
        return NULL;
    void *result = s->alloc(s->alloc_user, memory, old_size, new_size);
    if (result || new_size == 0)
        s->used += new_size - old_size;
    else
        s->over_memory = false;
    return result;
}

static void *default_alloc(void *user, void *memory, size_t old_size, size_t new_size)
{
    if (new_size)
        return realloc(memory, new_size);
    free(memory);
    return NULL;
}

static void count_steps(lua_State *L, lua_Debug *unused)
{
    cj_script *s = script_of(L);
    s->steps += HOOK_STEP;
    if (s->steps < STEP_LIMIT)
        return;
    lua_sethook(L, count_steps, LUA_MASKCOUNT, 1); /* so that a pcall which catches this error does not get far */
    luaL_error(L, "the generator ran for more than its limit of %d million instructions", STEP_LIMIT / 1000000);
}

/* ---- Protected calls ---- */

/* Fails with the message that cj_fail has set: unwinds to run(), which returns `status`. */
static int give_up(lua_State *L, convjit_status status)
{
    script_of(L)->status = status;
    lua_pushlightuserdata(L, &FAILED);
    return lua_error(L);
}

static const char *raw_string(lua_State *L, int table, const char *field)
{
    lua_pushstring(L, field);
    lua_rawget(L, table);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    lua_pop(L, 1); /* the table still holds the string */
    return text;
}

/* The message handler: puts an error into this thread's message. A table {status, message} is the generator's verdict
 * on its input; anything else is a bug, shown with a traceback. */
static int put_into_words(lua_State *L)
{
    if (lua_touserdata(L, 1) == &FAILED)
        return 1;
    const char *status = NULL, *message = NULL;
    if (lua_type(L, 1) == LUA_TTABLE) {
        status = raw_string(L, 1, "status");
        message = raw_string(L, 1, "message");
    }
    convjit_status code = CONVJIT_GENERATE;
    if (status && message && strcmp(status, "unsupported") == 0)
        code = CONVJIT_UNSUPPORTED;
    else if (status && message && strcmp(status, "invalid") == 0)
        code = CONVJIT_INVALID;
    else if (lua_isstring(L, 1))
        message = lua_tostring(L, 1);
    else
        message = lua_pushfstring(L, "the error is a %s", luaL_typename(L, 1));
    if (code == CONVJIT_GENERATE) {
        luaL_traceback(L, L, message, 1);
        message = lua_tostring(L, -1);
    }
    cj_fail(code, "%s", message);
    script_of(L)->status = code;
    lua_pushlightuserdata(L, &FAILED);
    return 1;
}

/* Forgets modules whose loading an error has cut short. Allocates nothing. */
static void forget_unfinished_modules(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &MODULES);
    if (lua_istable(L, -1)) /* else the state itself could not be set up */
        for (lua_pushnil(L); lua_next(L, -2);) {
            bool unfinished = !lua_toboolean(L, -1);
            lua_pop(L, 1);
            if (unfinished) {
                lua_pushvalue(L, -1);
                lua_pushnil(L);
                lua_rawset(L, -4);
            }
        }
    lua_pop(L, 1);
}

static convjit_status failure(cj_script *s, int code)
{
    if (lua_touserdata(s->L, -1) == &FAILED)
        return s->status;
    if (code == LUA_ERRMEM && s->over_memory)
        return cj_fail(CONVJIT_GENERATE, "the generator needs more than its limit of %d MiB of memory",
                       MEMORY_LIMIT >> 20);
    if (code == LUA_ERRMEM)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory in the generator");
    const char *message = lua_type(s->L, -1) == LUA_TSTRING ? lua_tostring(s->L, -1) : "no message";
    return cj_fail(CONVJIT_GENERATE, "the generator failed, and so did its error handler: %s", message);
}

/* Calls body(request) in protected mode, in the "C" locale: Lua's numbers and character classes follow the locale. */
static convjit_status run(cj_script *s, lua_CFunction body, void *request)
{
    lua_State *L = s->L;
    locale_t callers = uselocale(s->c_locale);
    s->steps = 0;
    lua_sethook(L, count_steps, LUA_MASKCOUNT, HOOK_STEP);
    lua_pushcfunction(L, put_into_words);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, request);
    convjit_status status = CONVJIT_OK;
    int code = lua_pcall(L, 1, 0, 1);
    if (code != LUA_OK) {
        status = failure(s, code);
        lua_settop(L, 0);
        forget_unfinished_modules(L);
        lua_gc(L, LUA_GCCOLLECT);
    }
    lua_settop(L, 0);
    uselocale(callers);
    return status;
}

/* ---- Files: embedded, or below CONVJIT_GEN_DIR ---- */

/* Pushes the contents of a file, or returns false if there is none. */
static bool push_disk_file(lua_State *L, const char *name)
{
    const char *path = lua_pushfstring(L, "%s/%s", script_of(L)->dir, name);
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    size_t size = (size_t)info.st_size;
    char *text = lua_newuserdatauv(L, size + 1, 0); /* Lua's memory, and before the file: no error can leak either */
    FILE *file = fopen(path, "rb");
    bool complete = file && fread(text, 1, size, file) == size;
    if (file)
        fclose(file);
    if (!complete)
        luaL_error(L, "cannot read %s", path);
    lua_pushlstring(L, text, size);
    return true;
}

static bool push_file(lua_State *L, const char *name)
{
    if (script_of(L)->dir)
        return push_disk_file(L, name);
    for (size_t i = 0; i < cj_embedded_count; i++)
        if (strcmp(cj_embedded_files[i].name, name) == 0) {
            lua_pushlstring(L, cj_embedded_files[i].text, cj_embedded_files[i].length);
            return true;
        }
    return false;
}

/* ---- What scripts can name: replacements of library functions ---- */

/* Refuses a value that Lua would print as an address, which differs from run to run. */
static void check_printable(lua_State *L, int index)
{
    int type = lua_type(L, index);
    if (type == LUA_TNIL || type == LUA_TBOOLEAN || type == LUA_TNUMBER || type == LUA_TSTRING)
        return;
    if (luaL_getmetafield(L, index, "__tostring") == LUA_TNIL)
        luaL_argerror(L, index, lua_pushfstring(L, "a %s would print as its address", lua_typename(L, type)));
    lua_pop(L, 1);
}

static int pure_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    check_printable(L, 1);
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/* Upvalue 1 of this, and of its callers below, is the library's own function. */
static int call_original(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int pure_format(lua_State *L)
{
    for (const char *c = luaL_checkstring(L, 1); (c = strchr(c, '%')) != NULL; c++) {
        c += 1 + strspn(c + 1, "-+ #0123456789."); /* now at the conversion */
        luaL_argcheck(L, *c != 'p', 1, "%p prints an address");
        if (*c == 0)
            break; /* the original complains */
    }
    for (int i = 2, n = lua_gettop(L); i <= n; i++)
        check_printable(L, i);
    return call_original(L);
}

/* These two can loop for ages in C, where no instruction is counted. */
static int limited_rep(lua_State *L)
{
    luaL_argcheck(L, luaL_checkinteger(L, 2) <= MEMORY_LIMIT, 2, "too many repetitions");
    return call_original(L);
}

static int limited_move(lua_State *L)
{
    lua_Integer first = luaL_checkinteger(L, 2), last = luaL_checkinteger(L, 3);
    bool few = last < first || (lua_Unsigned)last - (lua_Unsigned)first <= MEMORY_LIMIT;
    luaL_argcheck(L, few, 3, "too many elements to move");
    return call_original(L);
}

/* A finalizer would run when the collector finds the time, and with the instruction count switched off. */
static int pure_setmetatable(lua_State *L)
{
    if (lua_istable(L, 2)) {
        lua_pushliteral(L, "__gc");
        luaL_argcheck(L, lua_rawget(L, 2) == LUA_TNIL, 2, "__gc is not allowed here");
        lua_pop(L, 1);
    }
    return call_original(L);
}

/* true if the value at `a` comes before the one at `b`; index 2 is the order, or nil. */
static bool before(lua_State *L, int a, int b)
{
    if (lua_isnil(L, 2))
        return lua_compare(L, a, b, LUA_OPLT);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    bool result = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return result;
}

/* Merges runs of `width` elements from the table at index `from` into that at `to`. */
static void merge_runs(lua_State *L, int from, int to, lua_Integer n, lua_Integer width)
{
    for (lua_Integer low = 1; low <= n; low += 2 * width) {
        lua_Integer middle = low + width < n + 1 ? low + width : n + 1;
        lua_Integer high = low + 2 * width < n + 1 ? low + 2 * width : n + 1;
        for (lua_Integer at = low, i = low, j = middle; at < high; at++) {
            lua_rawgeti(L, from, i < middle ? i : j);
            lua_rawgeti(L, from, j < high ? j : i);
            int left = lua_gettop(L) - 1, right = left + 1;
            bool take_right = i >= middle || (j < high && before(L, right, left));
            lua_pushvalue(L, take_right ? right : left);
            lua_rawseti(L, to, at);
            lua_pop(L, 2);
            *(take_right ? &j : &i) += 1;
        }
    }
}

/* table.sort, but stable: Lua's own picks pivots by the clock in large tables, which shows when elements are equal. */
static int stable_sort(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
    luaL_argcheck(L, n <= INT_MAX, 1, "array too big");
    lua_createtable(L, (int)n, 0);
    int from = 1, to = 3;
    for (lua_Integer width = 1; width < n; width *= 2) {
        merge_runs(L, from, to, n, width);
        int swap = from;
        from = to;
        to = swap;
    }
    for (lua_Integer i = 1; from != 1 && i <= n; i++) {
        lua_rawgeti(L, from, i);
        lua_rawseti(L, 1, i);
    }
    return 0;
}

/* ---- What scripts can name: require and host ---- */

/* Checks the name of a module or template: letters, digits, '_' and single inner dots. */
static const char *check_name(lua_State *L, int index)
{
    const char *name = luaL_checkstring(L, index);
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    for (const char *c = name;; c++) {
        size_t n = strspn(c, letters);
        c += n;
        if (n && *c == 0 && strlen(name) == lua_rawlen(L, index))
            return name;
        if (n == 0 || *c != '.')
            luaL_argerror(L, index, lua_pushfstring(L, "'%s' is not a name of letters, digits, '_' and dots", name));
    }
}

/* Pushes a chunk's function. Its global names are the sandbox's. */
static void push_chunk(lua_State *L, const char *text, size_t length, const char *chunk)
{
    if (luaL_loadbufferx(L, text, length, chunk, "t") != LUA_OK)
        lua_error(L);
}

/* require "a.b": runs gen/a/b.lua once, and returns what it returns. */
static int require_module(lua_State *L)
{
    const char *name = check_name(L, 1);
    lua_settop(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &MODULES); /* 2: values by name; false: not finished */
    lua_pushvalue(L, 1);
    int type = lua_rawget(L, 2);
    if (type == LUA_TBOOLEAN)
        luaL_error(L, "module '%s' requires itself, or has failed before", name);
    if (type != LUA_TNIL)
        return 1;
    lua_pushvalue(L, 1);
    lua_pushboolean(L, false);
    lua_rawset(L, 2);
    const char *path = luaL_gsub(L, name, ".", "/");
    path = lua_pushfstring(L, "gen/%s.lua", path);
    if (!push_file(L, path))
        luaL_error(L, "module '%s' not found: no %s", name, path);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    push_chunk(L, text, length, lua_pushfstring(L, "@%s", path));
    lua_call(L, 0, 1);
    if (!lua_toboolean(L, -1))
        luaL_error(L, "%s returns nothing", path);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, -2);
    lua_rawset(L, 2);
    return 1;
}

static int host_digest(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    char hex[65];
    cj_sha256_hex(text, length, hex);
    lua_pushstring(L, hex);
    return 1;
}

static int host_template(lua_State *L)
{
    const char *path = lua_pushfstring(L, "templates/%s", check_name(L, 1));
    if (!push_file(L, path))
        luaL_error(L, "no %s", path);
    return 1;
}

static int host_load(lua_State *L)
{
    size_t length;
    const char *text = luaL_checklstring(L, 1, &length);
    const char *chunk = luaL_checkstring(L, 2);
    luaL_checktype(L, 3, LUA_TTABLE);
    push_chunk(L, text, length, chunk);
    lua_pushvalue(L, 3);
    lua_setupvalue(L, -2, 1); /* a main chunk's first upvalue is _ENV */
    return 1;
}

static int host_next(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    if (lua_next(L, 1))
        return 2;
    lua_pushnil(L);
    return 1;
}

static int undefined_name(lua_State *L)
{
    return luaL_error(L, "undefined name '%s'", luaL_tolstring(L, 2, NULL));
}

static int assigned_name(lua_State *L)
{
    return luaL_error(L, "assignment to the global name '%s'", luaL_tolstring(L, 2, NULL));
}

/* ---- Setting up a state ---- */

/* Copies named fields of the table on top into the one below it. */
static void copy_fields(lua_State *L, const char *const *names)
{
    for (; *names; names++) {
        lua_getfield(L, -1, *names);
        lua_setfield(L, -3, *names);
    }
}

/* Replaces a field of the table on top by `function`, which gets the original as its upvalue. */
static void wrap(lua_State *L, const char *field, lua_CFunction function)
{
    lua_getfield(L, -1, field);
    lua_pushcclosure(L, function, 1);
    lua_setfield(L, -2, field);
}

static void remove_fields(lua_State *L, const char *const *names)
{
    for (; *names; names++) {
        lua_pushnil(L);
        lua_setfield(L, -2, *names);
    }
}

/* Pushes the table of all names that scripts have. */
static void push_names(lua_State *L)
{
    static const char *const base[] = {"assert", "error", "getmetatable", "ipairs", "pcall", "select", "setmetatable",
                                       "tonumber", "type", NULL};
    static const char *const impure_math[] = {"random", "randomseed", NULL};
    static const char *const impure_string[] = {"dump", NULL};
    static const luaL_Reg host[] = {{"digest", host_digest}, {"template", host_template}, {"load", host_load},
                                    {"next", host_next}, {NULL, NULL}};
    lua_newtable(L);
    luaL_requiref(L, LUA_GNAME, luaopen_base, 0);
    copy_fields(L, base);
    lua_pop(L, 1);
    wrap(L, "setmetatable", pure_setmetatable);
    luaL_requiref(L, LUA_MATHLIBNAME, luaopen_math, 0);
    remove_fields(L, impure_math);
    lua_setfield(L, -2, "math");
    luaL_requiref(L, LUA_STRLIBNAME, luaopen_string, 0);
    remove_fields(L, impure_string);
    wrap(L, "format", pure_format);
    wrap(L, "rep", limited_rep);
    lua_setfield(L, -2, "string");
    luaL_requiref(L, LUA_TABLIBNAME, luaopen_table, 0);
    wrap(L, "move", limited_move);
    lua_pushcfunction(L, stable_sort);
    lua_setfield(L, -2, "sort");
    lua_setfield(L, -2, "table");
    luaL_requiref(L, LUA_UTF8LIBNAME, luaopen_utf8, 0);
    lua_setfield(L, -2, "utf8");
    lua_pushcfunction(L, pure_tostring);
    lua_setfield(L, -2, "tostring");
    lua_pushcfunction(L, require_module);
    lua_setfield(L, -2, "require");
    luaL_newlib(L, host);
    lua_setfield(L, -2, "host");
}

/* Hides the metatable of the value on top from getmetatable. */
static void hide_metatable(lua_State *L)
{
    lua_getmetatable(L, -1);
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

/* Makes an empty table, through which the names can be read and nothing be written, the globals of every chunk. */
static int set_up(lua_State *L)
{
    push_names(L);
    lua_newtable(L);
    lua_pushcfunction(L, undefined_name);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_newtable(L); /* the globals */
    lua_newtable(L); /* their metatable */
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, assigned_name);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
    hide_metatable(L);
    lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pushliteral(L, "");
    hide_metatable(L);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &MODULES);
    return 0;
}

const char *cj_script_digest(void)
{
    return cj_embedded_digest;
}

/* The directory that stands in for the embedded files, or NULL. */
static const char *script_dir(void)
{
    const char *dir = getenv("CONVJIT_GEN_DIR");
    return dir && *dir ? dir : NULL;
}

bool cj_script_embedded(void)
{
    return !script_dir();
}

convjit_status cj_script_open(cj_script **out, const convjit_config *config)
{
    cj_script *s = calloc(1, sizeof *s);
    if (!s)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the generator");
    s->alloc = config && config->alloc ? config->alloc : default_alloc;
    s->alloc_user = config ? config->alloc_user : NULL;
    s->c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    const char *dir = script_dir();
    s->dir = dir ? strdup(dir) : NULL;
    bool complete = s->c_locale && (s->dir || !dir);
    s->L = complete ? lua_newstate(allocate, s) : NULL;
    if (!s->L) {
        cj_script_close(s);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the generator");
    }
    *(cj_script **)lua_getextraspace(s->L) = s;
    convjit_status status = run(s, set_up, NULL);
    if (status != CONVJIT_OK) {
        cj_script_close(s);
        return status;
    }
    *out = s;
    return CONVJIT_OK;
}

void cj_script_close(cj_script *s)
{
    if (!s)
        return;
    if (s->L)
        lua_close(s->L);
    if (s->c_locale)
        freelocale(s->c_locale);
    free(s->dir);
    free(s);
}

/* ---- Reading the generator's result. Each reader takes the value on top of Lua's stack, and pops it. ---- */

/* Where that value stands in the result, for messages: "launches[1].grid[2]". */
typedef struct place {
    const struct place *parent; /* NULL: the result itself */
    const char *field;          /* NULL: an element of a list */
    int index;                  /* its number from 1 */
} place;

static void write_place(const place *at, cj_text *out)
{
    if (!at->parent)
        return;
    write_place(at->parent, out);
    if (at->field)
        cj_text_printf(out, "%s%s", at->parent->parent ? "." : "", at->field);
    else
        cj_text_printf(out, "[%d]", at->index);
}

static int contract_broken(lua_State *L, const place *at, const char *what)
{
    cj_text name = {0};
    write_place(at, &name);
    cj_fail(CONVJIT_GENERATE, "the generator's result: %s %s", name.length ? name.data : "it", what);
    cj_text_free(&name);
    return give_up(L, CONVJIT_GENERATE);
}

static int out_of_memory(lua_State *L)
{
    return give_up(L, cj_fail(CONVJIT_NO_MEMORY, "out of memory for the generator's result"));
}

static void check_type(lua_State *L, const place *at, int expected)
{
    int type = lua_type(L, -1);
    if (type == LUA_TNIL)
        contract_broken(L, at, "is missing");
    if (type != expected)
        contract_broken(L, at, lua_pushfstring(L, "is a %s, expected a %s", lua_typename(L, type),
                                               lua_typename(L, expected)));
}

/* Pushes a field of the table on top. */
static place get_field(lua_State *L, const place *parent, const char *field)
{
    lua_pushstring(L, field);
    lua_rawget(L, -2);
    return (place){.parent = parent, .field = field};
}

/* Pushes element i, from 0, of the list on top. */
static place get_element(lua_State *L, const place *parent, int i)
{
    lua_rawgeti(L, -1, i + 1);
    return (place){.parent = parent, .index = i + 1};
}

/* A malloc'd copy. Stored through `out` at once, so that a later error leaks nothing. */
static void read_string(lua_State *L, const place *at, char **out)
{
    check_type(L, at, LUA_TSTRING);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (strlen(text) != length)
        contract_broken(L, at, "contains a zero byte");
    *out = strdup(text);
    if (!*out)
        out_of_memory(L);
    lua_pop(L, 1);
}

static void read_string_field(lua_State *L, const place *parent, const char *field, char **out)
{
    place at = get_field(L, parent, field);
    read_string(L, &at, out);
}

static int read_int(lua_State *L, const place *at)
{
    check_type(L, at, LUA_TNUMBER);
    int exact;
    lua_Integer value = lua_tointegerx(L, -1, &exact);
    if (!exact || value < 0 || value > INT_MAX)
        contract_broken(L, at, lua_pushfstring(L, "is %s, expected an integer of 0 to %d", lua_tostring(L, -1),
                                               INT_MAX));
    lua_pop(L, 1);
    return (int)value;
}

/* Checks that the value is a table whose keys are all among `fields`; leaves it. */
static void check_fields(lua_State *L, const place *at, const char *const *fields)
{
    check_type(L, at, LUA_TTABLE);
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            contract_broken(L, at, lua_pushfstring(L, "has a key that is a %s", luaL_typename(L, -2)));
        const char *key = lua_tostring(L, -2);
        const char *const *known = fields;
        while (*known && strcmp(key, *known) != 0)
            known++;
        if (!*known)
            contract_broken(L, at, lua_pushfstring(L, "has an unknown field '%s'", key));
    }
}

/* Checks that the value is a list of `least` to `most` elements and nothing else; leaves it, returns how many. */
static int check_list(lua_State *L, const place *at, int least, int most)
{
    check_type(L, at, LUA_TTABLE);
    lua_Unsigned n = lua_rawlen(L, -1), keys = 0;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1))
        keys++;
    if (keys != n)
        contract_broken(L, at, "has holes, or keys that are no list's");
    if (n < (lua_Unsigned)least || n > (lua_Unsigned)most)
        contract_broken(L, at, lua_pushfstring(L, "has %I elements, expected %d to %d", (LUAI_UACINT)n, least, most));
    return (int)n;
}

static cj_arg_kind read_kind(lua_State *L, const place *parent)
{
    place at = get_field(L, parent, "kind");
    check_type(L, &at, LUA_TSTRING);
    size_t length;
    const char *name = lua_tolstring(L, -1, &length);
    cj_arg_kind kind = CJ_ARG_KIND_COUNT;
    if (!cj_arg_kind_parse(name, length, &kind))
        contract_broken(L, &at, lua_pushfstring(L, "is '%s', which is no kind of argument", name));
    lua_pop(L, 1);
    return kind;
}

static cj_arg_kind read_tensor(lua_State *L, const place *parent)
{
    place at = get_field(L, parent, "tensor");
    check_type(L, &at, LUA_TSTRING);
    size_t length;
    const char *name = lua_tolstring(L, -1, &length);
    cj_arg_kind kind = CJ_ARG_KIND_COUNT;
    if (!cj_arg_kind_parse(name, length, &kind) || kind > CJ_ARG_PACKED)
        contract_broken(L, &at, lua_pushfstring(L, "is '%s', which is no tensor, not the workspace and not packed weights", name));
    lua_pop(L, 1);
    return kind;
}

static cj_map_element read_element(lua_State *L, const place *parent)
{
    place at = get_field(L, parent, "element");
    check_type(L, &at, LUA_TSTRING);
    size_t length;
    const char *name = lua_tolstring(L, -1, &length);
    cj_map_element element = CJ_MAP_COUNT;
    if (!cj_map_element_parse(name, length, &element))
        contract_broken(L, &at, lua_pushfstring(L, "is '%s', which is no element of a tensor map", name));
    lua_pop(L, 1);
    return element;
}

static int read_strings(lua_State *L, const place *parent, const char *field, int least, int most, char **out)
{
    place list = get_field(L, parent, field);
    int n = check_list(L, &list, least, most);
    for (int i = 0; i < n; i++) {
        place at = get_element(L, &list, i);
        read_string(L, &at, &out[i]);
    }
    lua_pop(L, 1);
    return n;
}

static void read_ints(lua_State *L, const place *parent, const char *field, int n, int *out)
{
    place list = get_field(L, parent, field);
    check_list(L, &list, n, n);
    for (int i = 0; i < n; i++) {
        place at = get_element(L, &list, i);
        out[i] = read_int(L, &at);
    }
    lua_pop(L, 1);
}

/* The argument's table is on top. Offset, swizzle and element strides have defaults: 0, 0, all 1. */
static void read_map(lua_State *L, const place *at, cj_tensor_arg *out)
{
    out->tensor = read_tensor(L, at);
    out->map.element = read_element(L, at);
    place offset = get_field(L, at, "offset");
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushliteral(L, "0");
    }
    read_string(L, &offset, &out->offset);
    int rank = out->map.rank = read_strings(L, at, "dims", 1, CJ_MAX_AXES, out->dims);
    read_strings(L, at, "strides", rank - 1, rank - 1, out->strides);
    read_ints(L, at, "box", rank, out->map.box);
    place swizzle = get_field(L, at, "swizzle");
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else
        out->map.swizzle = read_int(L, &swizzle);
    for (int i = 0; i < rank; i++)
        out->map.element_strides[i] = 1;
    get_field(L, at, "element_strides");
    bool given = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (given)
        read_ints(L, at, "element_strides", rank, out->map.element_strides);
}

static void read_map_arg(lua_State *L, const place *at, cj_arg *out)
{
    static const char *const fields[] = {"kind", "tensor", "offset", "element", "dims", "strides", "box", "element_strides",
                                         "swizzle", NULL};
    check_fields(L, at, fields);
    out->kind = CJ_ARG_TENSOR_MAP;
    out->map = calloc(1, sizeof *out->map);
    if (!out->map)
        out_of_memory(L);
    read_map(L, at, out->map);
    lua_pop(L, 1);
}

static void read_arg(lua_State *L, const place *at, cj_arg *out)
{
    static const char *const fields[] = {"kind", "expr", NULL};
    check_type(L, at, LUA_TTABLE);
    if (read_kind(L, at) == CJ_ARG_TENSOR_MAP) {
        read_map_arg(L, at, out);
        return;
    }
    check_fields(L, at, fields);
    out->kind = read_kind(L, at);
    place expr = get_field(L, at, "expr");
    if (out->kind < CJ_ARG_WORKSPACE && !lua_isnil(L, -1))
        contract_broken(L, &expr, "is given for a tensor");
    if (out->kind < CJ_ARG_WORKSPACE)
        lua_pop(L, 1);
    else
        read_string(L, &expr, &out->expr);
    lua_pop(L, 1);
}

static void read_grid(lua_State *L, const place *launch, char *grid[3])
{
    place list = get_field(L, launch, "grid");
    check_list(L, &list, 3, 3);
    for (int i = 0; i < 3; i++) {
        place at = get_element(L, &list, i);
        read_string(L, &at, &grid[i]);
    }
    lua_pop(L, 1);
}

static void read_block(lua_State *L, const place *launch, int block[3])
{
    place list = get_field(L, launch, "block");
    check_list(L, &list, 3, 3);
    for (int i = 0; i < 3; i++) {
        place at = get_element(L, &list, i);
        block[i] = read_int(L, &at);
    }
    lua_pop(L, 1);
}

/* Of one block, unless it is given. */
static void read_cluster(lua_State *L, const place *launch, int cluster[3])
{
    cluster[0] = cluster[1] = cluster[2] = 1;
    get_field(L, launch, "cluster");
    bool given = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (given)
        read_ints(L, launch, "cluster", 3, cluster);
}

/* false, unless it is given. */
static bool read_flag(lua_State *L, const place *parent, const char *field)
{
    place at = get_field(L, parent, field);
    bool value = lua_toboolean(L, -1);
    if (!lua_isnil(L, -1))
        check_type(L, &at, LUA_TBOOLEAN);
    lua_pop(L, 1);
    return value;
}

static void read_launch(lua_State *L, const place *at, cj_launch *out)
{
    static const char *const fields[] = {"entry", "grid", "block", "cluster", "packs", "overlap", "smem", "args", NULL};
    check_fields(L, at, fields);
    read_string_field(L, at, "entry", &out->entry);
    read_string_field(L, at, "smem", &out->smem);
    read_grid(L, at, out->grid);
    read_block(L, at, out->block);
    read_cluster(L, at, out->cluster);
    out->packs = read_flag(L, at, "packs");
    out->overlap = read_flag(L, at, "overlap");
    place list = get_field(L, at, "args");
    out->n_args = check_list(L, &list, 0, CJ_MAX_ARGS);
    for (int i = 0; i < out->n_args; i++) {
        place arg = get_element(L, &list, i);
        read_arg(L, &arg, &out->args[i]);
    }
    lua_pop(L, 2);
}

static void read_requires(lua_State *L, const place *root, cj_kernel *k)
{
    static const char *const fields[] = {"expr", "why", NULL};
    place list = get_field(L, root, "requires");
    k->n_requires = check_list(L, &list, 0, CJ_MAX_REQUIRES);
    for (int i = 0; i < k->n_requires; i++) {
        place at = get_element(L, &list, i);
        check_fields(L, &at, fields);
        read_string_field(L, &at, "expr", &k->requires[i].expr);
        read_string_field(L, &at, "why", &k->requires[i].why);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void read_options(lua_State *L, const place *root, cj_kernel *k)
{
    place list = get_field(L, root, "options");
    k->n_options = check_list(L, &list, 0, CJ_MAX_OPTIONS);
    for (int i = 0; i < k->n_options; i++) {
        place at = get_element(L, &list, i);
        read_string(L, &at, &k->options[i]);
    }
    lua_pop(L, 1);
}

static void read_launches(lua_State *L, const place *root, cj_kernel *k)
{
    place list = get_field(L, root, "launches");
    k->n_launches = check_list(L, &list, 1, CJ_MAX_LAUNCHES);
    for (int i = 0; i < k->n_launches; i++) {
        place at = get_element(L, &list, i);
        read_launch(L, &at, &k->launches[i]);
    }
    lua_pop(L, 1);
}

/* All fields but candidates and refused. Leaves the result. */
static void read_kernel(lua_State *L, const place *root, cj_kernel *k)
{
    static const char *const fields[] = {"name", "tuple", "arch", "schedule", "why", "source", "parts", "options", "workspace",
                                         "packed", "align", "requires", "launches", "candidates", "refused", NULL};
    check_fields(L, root, fields);
    read_string_field(L, root, "name", &k->name);
    read_string_field(L, root, "tuple", &k->tuple);
    read_string_field(L, root, "arch", &k->arch);
    read_string_field(L, root, "schedule", &k->schedule);
    read_string_field(L, root, "why", &k->why);
    read_string_field(L, root, "source", &k->source);
    read_string_field(L, root, "workspace", &k->workspace);
    place packed = get_field(L, root, "packed");
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else
        read_string(L, &packed, &k->packed);
    place parts = get_field(L, root, "parts");
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else
        k->parts = read_int(L, &parts);
    place align = get_field(L, root, "align");
    k->align = read_int(L, &align);
    read_options(L, root, k);
    read_requires(L, root, k);
    read_launches(L, root, k);
}

/* ---- Reading the lists of schedules ---- */

typedef struct request {
    const convjit_problem *problem;
    const char *arch, *schedule;
    const char *template, *chunk; /* source: a kernel text and its name */
    int sms;
    cj_kernel *kernel; /* generate: its fields are filled in */
    cj_text text;      /* generate: the JSON of all schedules; torch, source: the file */
    char **specs;      /* generate: the candidates' specifications */
    size_t n_specs;
    char **refusals;   /* generate: "schedule: why" */
    size_t n_refusals;
    bool known;        /* knows_arch */
} request;

static void add_string_field(lua_State *L, const place *parent, const char *field, cj_text *json)
{
    place at = get_field(L, parent, field);
    check_type(L, &at, LUA_TSTRING);
    cj_text_printf(json, "\"%s\":", field);
    cj_text_json(json, lua_tostring(L, -1));
    lua_pop(L, 1);
}

/* Adds {"schedule":..,"predicted_us":..,"why":..}; a refused one has no time. */
static void add_schedule(lua_State *L, const place *at, bool candidate, cj_text *json)
{
    static const char *const timed[] = {"schedule", "why", "predicted_us", NULL};
    static const char *const untimed[] = {"schedule", "why", NULL};
    check_fields(L, at, candidate ? timed : untimed);
    cj_text_puts(json, "{");
    add_string_field(L, at, "schedule", json);
    if (candidate) {
        place time = get_field(L, at, "predicted_us");
        check_type(L, &time, LUA_TNUMBER);
        double us = lua_tonumber(L, -1);
        if (!(isfinite(us) && us >= 0))
            contract_broken(L, &time, "is no time");
        cj_text_printf(json, ",\"predicted_us\":%.3f", us);
        lua_pop(L, 1);
    }
    cj_text_puts(json, ",");
    add_string_field(L, at, "why", json);
    cj_text_puts(json, "}");
    lua_pop(L, 1);
}

static void add_schedules(lua_State *L, const place *root, const char *field, bool candidates, cj_text *json)
{
    place list = get_field(L, root, field);
    int n = check_list(L, &list, candidates, INT_MAX);
    cj_text_printf(json, ",\"%s\":[", field);
    for (int i = 0; i < n; i++) {
        cj_text_puts(json, i ? "," : "");
        place at = get_element(L, &list, i);
        add_schedule(L, &at, candidates, json);
    }
    cj_text_puts(json, "]");
    lua_pop(L, 1);
}

static void write_schedules(lua_State *L, const place *root, request *r)
{
    char problem[512];
    convjit_problem_format(r->problem, problem, sizeof problem);
    cj_text_puts(&r->text, "{\"problem\":");
    cj_text_json(&r->text, problem);
    cj_text_puts(&r->text, ",\"arch\":");
    cj_text_json(&r->text, r->kernel->arch);
    add_schedules(L, root, "candidates", true, &r->text);
    add_schedules(L, root, "refused", false, &r->text);
    cj_text_puts(&r->text, "}");
}

/* Pushes a list of tables, and makes room for a string of each. */
static size_t get_strings(lua_State *L, const place *list, int least, char ***strings)
{
    int n = check_list(L, list, least, INT_MAX);
    *strings = calloc((size_t)n + 1, sizeof **strings);
    if (!*strings)
        out_of_memory(L);
    return (size_t)n;
}

static void read_specs(lua_State *L, const place *root, request *r)
{
    place list = get_field(L, root, "candidates");
    r->n_specs = get_strings(L, &list, 1, &r->specs);
    for (size_t i = 0; i < r->n_specs; i++) {
        place at = get_element(L, &list, (int)i);
        read_string_field(L, &at, "schedule", &r->specs[i]);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void read_refusals(lua_State *L, const place *root, request *r)
{
    place list = get_field(L, root, "refused");
    r->n_refusals = get_strings(L, &list, 0, &r->refusals);
    for (size_t i = 0; i < r->n_refusals; i++) {
        place at = get_element(L, &list, (int)i);
        get_field(L, &at, "schedule"); /* write_schedules has found both to be strings */
        lua_pushliteral(L, ": ");
        lua_getfield(L, -3, "why");
        lua_concat(L, 3);
        read_string(L, &at, &r->refusals[i]);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* ---- Calls ---- */

/* Pushes a function of gen/init.lua's table. */
static void push_entry(lua_State *L, const char *name)
{
    lua_pushcfunction(L, require_module);
    lua_pushliteral(L, "init");
    lua_call(L, 1, 1);
    if (!lua_istable(L, -1) || (lua_pushstring(L, name), lua_rawget(L, -2)) != LUA_TFUNCTION)
        luaL_error(L, "gen/init.lua has no function '%s'", name);
    lua_remove(L, -2);
}

static void push_problem(lua_State *L, const convjit_problem *p)
{
    const struct { const char *name; int64_t value; } sizes[] = {
        {"n", p->n}, {"c", p->c}, {"h", p->h}, {"w", p->w}, {"k", p->k}, {"r", p->r}, {"s", p->s},
        {"stride_h", p->stride_h}, {"stride_w", p->stride_w}, {"pad_top", p->pad_top}, {"pad_left", p->pad_left},
        {"pad_bottom", p->pad_bottom}, {"pad_right", p->pad_right}, {"dil_h", p->dil_h}, {"dil_w", p->dil_w},
        {"groups", p->groups},
    };
    const struct { const char *name, *value; } names[] = {
        {"math", cj_math_name(p->math)}, {"layout", cj_layout_name(p->layout)},
        {"weights_layout", cj_weights_layout_name(cj_weights_layout(p))},
        {"activation", cj_activation_name(p->activation)},
    };
    lua_newtable(L);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lua_pushinteger(L, sizes[i].value);
        lua_setfield(L, -2, sizes[i].name);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lua_pushstring(L, names[i].value);
        lua_setfield(L, -2, names[i].name);
    }
    lua_pushnumber(L, p->alpha);
    lua_setfield(L, -2, "alpha");
    lua_pushnumber(L, p->beta);
    lua_setfield(L, -2, "beta");
    lua_pushboolean(L, p->bias);
    lua_setfield(L, -2, "bias");
    lua_pushboolean(L, p->residual);
    lua_setfield(L, -2, "residual");
}

/* Calls a function of gen/init.lua with (problem, target, schedule); leaves its result. */
static void call_entry(lua_State *L, const char *name, const request *r)
{
    push_entry(L, name);
    push_problem(L, r->problem);
    lua_newtable(L);
    lua_pushstring(L, r->arch);
    lua_setfield(L, -2, "arch");
    lua_pushinteger(L, r->sms);
    lua_setfield(L, -2, "sms");
    lua_pushstring(L, r->schedule); /* nil for NULL */
    lua_call(L, 3, 1);
}

static int generate(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    call_entry(L, "generate", r);
    const place root = {0};
    read_kernel(L, &root, r->kernel);
    write_schedules(L, &root, r);
    read_specs(L, &root, r);
    read_refusals(L, &root, r);
    return 0;
}

static int generate_torch(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    call_entry(L, "torch", r);
    const place root = {0};
    check_type(L, &root, LUA_TSTRING);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    cj_text_add(&r->text, text, length);
    return 0;
}

static int render_source(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    push_entry(L, "source");
    lua_pushstring(L, r->template);
    lua_pushstring(L, r->chunk);
    lua_call(L, 2, 1);
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    cj_text_add(&r->text, text, length);
    return 0;
}

static int ask_for_arch(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    push_entry(L, "knows_arch");
    lua_pushstring(L, r->arch);
    lua_call(L, 1, 1);
    r->known = lua_toboolean(L, -1);
    return 0;
}

static int ask_for_sms(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    const place root = {0};
    push_entry(L, "usual_sms");
    lua_pushstring(L, r->arch);
    lua_call(L, 1, 1);
    r->sms = read_int(L, &root);
    return 0;
}

static void free_strings(char **strings, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(strings[i]);
    free(strings);
}

/* Generates and checks everything; the request owns it, also after a failure. */
static convjit_status run_generate(cj_script *s, request *r)
{
    r->kernel = calloc(1, sizeof *r->kernel);
    if (!r->kernel)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the kernel");
    convjit_status status = run(s, generate, r);
    return status == CONVJIT_OK ? cj_kernel_check(r->kernel, false) : status;
}

static void free_request(request *r)
{
    cj_kernel_free(r->kernel);
    cj_text_free(&r->text);
    free_strings(r->specs, r->n_specs);
    free_strings(r->refusals, r->n_refusals);
}

convjit_status cj_script_generate(cj_script *s, const convjit_problem *p, const char *arch, int sms,
                                  const char *schedule, cj_kernel **kernel, char **schedules_json)
{
    request r = {.problem = p, .arch = arch, .sms = sms, .schedule = schedule};
    convjit_status status = run_generate(s, &r);
    if (status == CONVJIT_OK && schedules_json)
        status = cj_text_take(&r.text, schedules_json);
    if (status == CONVJIT_OK && kernel) {
        *kernel = r.kernel;
        r.kernel = NULL;
    }
    free_request(&r);
    return status;
}

convjit_status cj_script_candidates(cj_script *s, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                    char ***specs, size_t *n)
{
    request r = {.problem = p, .arch = arch, .sms = sms, .schedule = schedule};
    convjit_status status = run_generate(s, &r);
    if (status == CONVJIT_OK) {
        *specs = r.specs;
        *n = r.n_specs;
        r.specs = NULL;
        r.n_specs = 0;
    }
    free_request(&r);
    return status;
}

convjit_status cj_script_refusals(cj_script *s, const convjit_problem *p, const char *arch, int sms, char ***lines,
                                  size_t *n)
{
    request r = {.problem = p, .arch = arch, .sms = sms};
    convjit_status status = run_generate(s, &r);
    if (status == CONVJIT_OK) {
        *lines = r.refusals;
        *n = r.n_refusals;
        r.refusals = NULL;
        r.n_refusals = 0;
    }
    free_request(&r);
    return status;
}

convjit_status cj_script_torch(cj_script *s, const convjit_problem *p, const char *arch, const char *schedule,
                               char **out)
{
    request r = {.problem = p, .arch = arch, .schedule = schedule};
    convjit_status status = run(s, generate_torch, &r);
    if (status == CONVJIT_OK)
        status = cj_text_take(&r.text, out);
    free_request(&r);
    return status;
}

convjit_status cj_script_source(cj_script *s, const char *template, const char *chunk, char **source)
{
    request r = {.template = template, .chunk = chunk};
    convjit_status status = run(s, render_source, &r);
    if (status == CONVJIT_OK)
        status = cj_text_take(&r.text, source);
    free_request(&r);
    return status;
}

bool cj_script_knows_arch(cj_script *s, const char *arch)
{
    request r = {.arch = arch};
    return run(s, ask_for_arch, &r) == CONVJIT_OK && r.known;
}

convjit_status cj_script_usual_sms(cj_script *s, const char *arch, int *sms)
{
    request r = {.arch = arch};
    convjit_status status = run(s, ask_for_sms, &r);
    if (status == CONVJIT_OK)
        *sms = r.sms;
    return status;
}

/* ---- Test scripts ---- */

typedef struct test_script {
    const char *text, *chunk;
    size_t length;
    void (*check)(void *user, const char *name, bool ok);
    void *user;
} test_script;

static int report_check(lua_State *L)
{
    const test_script *t = lua_touserdata(L, lua_upvalueindex(1));
    const char *name = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    t->check(t->user, name, lua_toboolean(L, 2));
    return 0;
}

static int run_chunk(lua_State *L)
{
    test_script *t = lua_touserdata(L, 1);
    push_chunk(L, t->text, t->length, t->chunk);
    lua_newtable(L); /* its global names: check, and behind it the sandbox's */
    lua_pushlightuserdata(L, t);
    lua_pushcclosure(L, report_check, 1);
    lua_setfield(L, -2, "check");
    lua_newtable(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setupvalue(L, -2, 1);
    lua_call(L, 0, 0);
    return 0;
}

convjit_status cj_script_run(cj_script *s, const char *text, size_t length, const char *chunk,
                             void (*check)(void *user, const char *name, bool ok), void *user)
{
    test_script t = {.text = text, .length = length, .chunk = chunk, .check = check, .user = user};
    return run(s, run_chunk, &t);
}
