/* kernel.c: checks of a kernel's description, and its text form in cache entries and bundles.
 *
 * The text has one field a line, a keyword and its value, in this order ([...]: as often as there are):
 *
 *     convjit-kernel 1
 *     name conv2d_direct_...
 *     tuple c64k128r5s7
 *     arch sm_90a
 *     schedule direct:...
 *     why one line
 *     [option --gpu-architecture=sm_90a]
 *     workspace EXPRESSION
 *     [packed EXPRESSION]
 *     align 4
 *     [require EXPRESSION
 *     because one line]
 *     [launch ENTRY
 *     grid_x EXPRESSION, grid_y and grid_z likewise
 *     block_x 128, block_y and block_z likewise
 *     [cluster_x 2, cluster_y and cluster_z likewise, unless all are 1]
 *     [packs]
 *     [overlap]
 *     smem EXPRESSION
 *     [arg KIND, and behind a blank the expression if the kind has one; behind the kind tensor_map, whose memory it is, and:
 *     map_element f16
 *     [map_swizzle 128]
 *     map_offset EXPRESSION
 *     [for each axis: map_dim EXPRESSION, from the second on map_stride EXPRESSION, map_box 64, map_every 1]]]
 *     end
 *
 * Values hold no control characters, so nothing is escaped, and every kernel has exactly one text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"

static const char HEADER[] = "convjit-kernel 1";

enum { MAX_LINE = 4096, MAX_BLOCK = 1024, MAX_BLOCK_Z = 64, MAX_ALIGN = 256, MAP_ALIGN = 16 };

static const char *const arg_names[CJ_ARG_KIND_COUNT] = {
    [CJ_ARG_INPUT] = "input",   [CJ_ARG_WEIGHTS] = "weights",     [CJ_ARG_BIAS] = "bias",
    [CJ_ARG_OUTPUT] = "output", [CJ_ARG_WORKSPACE] = "workspace", [CJ_ARG_RESIDUAL] = "residual",
    [CJ_ARG_PACKED] = "packed", [CJ_ARG_I32] = "i32",             [CJ_ARG_I64] = "i64",
    [CJ_ARG_TENSOR_MAP] = "tensor_map",
};
static const char *const grid_names[3] = {"grid_x", "grid_y", "grid_z"};
static const char *const block_names[3] = {"block_x", "block_y", "block_z"};
static const char *const cluster_names[3] = {"cluster_x", "cluster_y", "cluster_z"};

const char *cj_arg_kind_name(cj_arg_kind kind)
{
    return (unsigned)kind < CJ_ARG_KIND_COUNT ? arg_names[kind] : "unknown";
}

bool cj_arg_kind_parse(const char *name, size_t length, cj_arg_kind *out)
{
    for (int i = 0; i < CJ_ARG_KIND_COUNT; i++) {
        if (strlen(arg_names[i]) == length && memcmp(arg_names[i], name, length) == 0) {
            *out = (cj_arg_kind)i;
            return true;
        }
    }
    return false;
}

static bool has_expr(cj_arg_kind kind)
{
    return kind >= CJ_ARG_WORKSPACE && kind != CJ_ARG_TENSOR_MAP;
}

size_t cj_kernel_tuple(const convjit_problem *problem, char *text, size_t capacity)
{
    char whole[512]; /* twice what the longest problem needs */
    convjit_problem_format(problem, whole, sizeof whole);
    const char *fields = strchr(whole, '_');
    int n = snprintf(text, capacity, "c%lldk%lldr%llds%lld%s", (long long)problem->c, (long long)problem->k,
                     (long long)problem->r, (long long)problem->s, fields ? fields : "");
    return n > 0 ? (size_t)n : 0;
}

static void free_map(cj_tensor_arg *map)
{
    if (!map)
        return;
    free(map->offset);
    for (int i = 0; i < CJ_MAX_AXES; i++)
        free(map->dims[i]);
    for (int i = 0; i < CJ_MAX_AXES - 1; i++)
        free(map->strides[i]);
    free(map);
}

void cj_kernel_free(cj_kernel *k)
{
    if (!k)
        return;
    char *parts[] = {k->name, k->tuple, k->arch, k->schedule, k->why, k->source, k->workspace, k->packed};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    for (int i = 0; i < CJ_MAX_OPTIONS; i++)
        free(k->options[i]);
    for (int i = 0; i < CJ_MAX_REQUIRES; i++) {
        free(k->requires[i].expr);
        free(k->requires[i].why);
    }
    for (int i = 0; i < CJ_MAX_LAUNCHES; i++) {
        cj_launch *l = &k->launches[i];
        free(l->entry);
        free(l->smem);
        for (int axis = 0; axis < 3; axis++)
            free(l->grid[axis]);
        for (int arg = 0; arg < CJ_MAX_ARGS; arg++) {
            free(l->args[arg].expr);
            free_map(l->args[arg].map);
        }
    }
    free(k);
}

/* ---- Checks ---- */

/* What is checked, for messages: "kernel NAME: launch 2: arg 3: ...". Launch and arg count from 1; 0 is none. */
typedef struct place { const cj_kernel *kernel; convjit_status status; int launch, arg; } place;

static convjit_status broken(const place *at, const char *format, ...) __attribute__((format(printf, 2, 3)));
static convjit_status broken(const place *at, const char *format, ...)
{
    char detail[512], name[CJ_QUOTE], where[64] = "";
    const char *text = at->kernel->name ? at->kernel->name : "";
    va_list args;
    va_start(args, format);
    cj_vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    cj_quote(name, text, strlen(text));
    if (at->arg)
        snprintf(where, sizeof where, "launch %d, arg %d: ", at->launch, at->arg);
    else if (at->launch)
        snprintf(where, sizeof where, "launch %d: ", at->launch);
    return cj_fail(at->status, "kernel %s: %s%s", name, where, detail);
}

static bool is_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool is_identifier(const char *s)
{
    if (!*s || (*s >= '0' && *s <= '9'))
        return false;
    while (is_alnum(*s) || *s == '_')
        s++;
    return !*s;
}

/* "sm_90a" */
static bool is_arch(const char *s)
{
    size_t digits = strncmp(s, "sm_", 3) == 0 ? strspn(s + 3, "0123456789") : 0;
    const char *end = s + 3 + digits;
    return digits >= 2 && digits <= 4 && (!*end || (*end >= 'a' && *end <= 'z' && !end[1]));
}

/* A name of letters, digits and '_', and behind it, perhaps, ':' and parameters without blanks. */
static bool is_schedule(const char *s)
{
    const char *start = s;
    while (is_alnum(*s) || *s == '_')
        s++;
    if (s == start || (*s && *s != ':'))
        return false;
    while (*s > 0x20 && *s < 0x7F)
        s++;
    return !*s;
}

/* A tuple is what problem strings are made of. */
static bool is_tuple(const char *s)
{
    while (is_alnum(*s) || *s == '_' || *s == '.' || *s == '-')
        s++;
    return !*s;
}

/* One line of text: there, not empty, not too long, without control characters. */
static convjit_status check_line(const place *at, const char *field, const char *s)
{
    if (!s || !*s)
        return broken(at, "%s is missing", field);
    size_t length = strlen(s);
    if (length > MAX_LINE)
        return broken(at, "%s has %zu bytes, above the limit %d", field, length, MAX_LINE);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7F)
            return broken(at, "%s holds the control character 0x%02x", field, (unsigned char)s[i]);
    return CONVJIT_OK;
}

static convjit_status check_form(const place *at, const char *field, const char *s, bool (*form)(const char *),
                                 const char *expected)
{
    convjit_status status = check_line(at, field, s);
    if (status || form(s))
        return status;
    char quoted[CJ_QUOTE];
    cj_quote(quoted, s, strlen(s));
    return broken(at, "%s %s is not %s", field, quoted, expected);
}

static convjit_status check_expr(const place *at, const char *field, const char *s)
{
    convjit_status status = check_line(at, field, s);
    if (status || !cj_expr_check(s))
        return status;
    return broken(at, "%s: %s", field, convjit_errmsg());
}

static convjit_status check_count(const place *at, const char *field, int n, int least, int most)
{
    if (n >= least && n <= most)
        return CONVJIT_OK;
    return broken(at, "%s: %d is not between %d and %d", field, n, least, most);
}

static convjit_status check_map(const place *at, const cj_tensor_arg *arg)
{
    if (!arg)
        return broken(at, "the tensor map is missing");
    if ((unsigned)arg->tensor > CJ_ARG_PACKED)
        return broken(at, "the tensor map's memory is no tensor, no workspace and no packed weights");
    if (cj_tensor_map_check_box(&arg->map) != CONVJIT_OK)
        return broken(at, "tensor_map: %s", convjit_errmsg());
    convjit_status status = check_expr(at, "offset", arg->offset);
    for (int i = 0; !status && i < arg->map.rank; i++)
        status = check_expr(at, "dims", arg->dims[i]);
    for (int i = 0; !status && i < arg->map.rank - 1; i++)
        status = check_expr(at, "strides", arg->strides[i]);
    return status;
}

static convjit_status check_arg(const place *at, const cj_arg *arg)
{
    if ((unsigned)arg->kind >= CJ_ARG_KIND_COUNT)
        return broken(at, "kind %d is unknown", (int)arg->kind);
    if (arg->kind == CJ_ARG_TENSOR_MAP)
        return check_map(at, arg->map);
    if (has_expr(arg->kind))
        return check_expr(at, arg_names[arg->kind], arg->expr);
    return arg->expr ? broken(at, "%s takes no expression", arg_names[arg->kind]) : CONVJIT_OK;
}

static convjit_status check_block(const place *at, const int block[3])
{
    convjit_status status = CONVJIT_OK;
    for (int axis = 0; !status && axis < 3; axis++)
        status = check_count(at, block_names[axis], block[axis], 1, axis == 2 ? MAX_BLOCK_Z : MAX_BLOCK);
    if (status || block[0] * block[1] * block[2] <= MAX_BLOCK) /* at most 2^26 */
        return status;
    return broken(at, "block: %d*%d*%d threads are above the limit %d", block[0], block[1], block[2], MAX_BLOCK);
}

static convjit_status check_cluster(const place *at, const int cluster[3])
{
    convjit_status status = CONVJIT_OK;
    for (int axis = 0; !status && axis < 3; axis++)
        status = check_count(at, cluster_names[axis], cluster[axis], 1, CJ_MAX_CLUSTER);
    if (status || cluster[0] * cluster[1] * cluster[2] <= CJ_MAX_CLUSTER)
        return status;
    return broken(at, "cluster: %d*%d*%d blocks are above the limit %d", cluster[0], cluster[1], cluster[2], CJ_MAX_CLUSTER);
}

static convjit_status check_maps(const place *at, const cj_launch *l)
{
    int n = 0;
    for (int i = 0; i < l->n_args; i++)
        n += l->args[i].kind == CJ_ARG_TENSOR_MAP;
    return n > CJ_MAX_MAPS ? broken(at, "args: %d tensor maps are above the limit %d", n, CJ_MAX_MAPS) : CONVJIT_OK;
}

static convjit_status check_launch(place *at, const cj_launch *l)
{
    const char *source = at->kernel->source;
    convjit_status status = check_form(at, "entry", l->entry, is_identifier, "a C identifier");
    if (!status && source && !strstr(source, l->entry))
        status = broken(at, "entry %s is not in the source", l->entry);
    for (int axis = 0; !status && axis < 3; axis++)
        status = check_expr(at, grid_names[axis], l->grid[axis]);
    if (!status)
        status = check_block(at, l->block);
    if (!status)
        status = check_cluster(at, l->cluster);
    if (!status && l->overlap && at->launch == 1)
        status = broken(at, "overlap: the first launch has none before it in the plan");
    if (!status)
        status = check_expr(at, "smem", l->smem);
    if (!status)
        status = check_count(at, "args", l->n_args, 1, CJ_MAX_ARGS);
    if (!status)
        status = check_maps(at, l);
    for (int i = 0; !status && i < l->n_args; i++) {
        at->arg = i + 1;
        status = check_arg(at, &l->args[i]);
    }
    at->arg = 0;
    return status;
}

static convjit_status check_options(const place *at)
{
    const cj_kernel *k = at->kernel;
    convjit_status status = check_count(at, "options", k->n_options, 0, CJ_MAX_OPTIONS);
    for (int i = 0; !status && i < k->n_options; i++) {
        status = check_line(at, "options", k->options[i]);
        if (!status && k->options[i][0] != '-')
            status = broken(at, "options: number %d does not begin with \"-\"", i + 1);
    }
    return status;
}

static convjit_status check_requires(const place *at)
{
    const cj_kernel *k = at->kernel;
    convjit_status status = check_count(at, "requires", k->n_requires, 0, CJ_MAX_REQUIRES);
    for (int i = 0; !status && i < k->n_requires; i++) {
        status = check_expr(at, "requires.expr", k->requires[i].expr);
        if (!status)
            status = check_line(at, "requires.why", k->requires[i].why);
    }
    return status;
}

static convjit_status check_names(const place *at, bool from_cache)
{
    const cj_kernel *k = at->kernel;
    convjit_status status = check_form(at, "name", k->name, is_identifier, "a C identifier");
    if (!status)
        status = check_form(at, "tuple", k->tuple, is_tuple, "a problem string without n, h and w");
    if (!status)
        status = check_form(at, "arch", k->arch, is_arch, "of the form sm_90a");
    if (!status)
        status = check_form(at, "schedule", k->schedule, is_schedule, "a name, or a name, \":\" and parameters");
    if (!status)
        status = check_line(at, "why", k->why);
    if (!status && !from_cache && (!k->source || !*k->source))
        status = broken(at, "source is missing");
    return status;
}

/* Tensor copies take addresses of multiples of 16. */
static convjit_status check_map_alignment(const place *at)
{
    const cj_kernel *k = at->kernel;
    for (int i = 0; i < k->n_launches; i++)
        for (int arg = 0; arg < k->launches[i].n_args; arg++)
            if (k->launches[i].args[arg].kind == CJ_ARG_TENSOR_MAP && k->align < MAP_ALIGN)
                return broken(at, "align: %d is below %d, which tensor maps need", k->align, MAP_ALIGN);
    return CONVJIT_OK;
}

/* ---- Packed weights: they must serve every N, H and W ---- */

static convjit_status check_fixed(const place *at, const char *field, const char *expr)
{
    return expr && strpbrk(expr, "NHWPQ") ? broken(at, "%s: \"%s\" depends on N, H or W, and packed weights must not", field, expr)
                                          : CONVJIT_OK;
}

static bool may_pack(cj_arg_kind kind)
{
    return kind == CJ_ARG_WEIGHTS || kind == CJ_ARG_PACKED || kind == CJ_ARG_I32 || kind == CJ_ARG_I64;
}

static convjit_status check_packing_arg(const place *at, const cj_arg *arg)
{
    const cj_tensor_arg *map = arg->map;
    if (!may_pack(map ? map->tensor : arg->kind))
        return broken(at, "packs: it may take weights, packed weights and numbers, not %s",
                      arg_names[map ? map->tensor : arg->kind]);
    convjit_status status = check_fixed(at, "expr", map ? map->offset : arg->expr);
    for (int i = 0; map && !status && i < map->map.rank; i++)
        status = check_fixed(at, "dims", map->dims[i]);
    for (int i = 0; map && !status && i < map->map.rank - 1; i++)
        status = check_fixed(at, "strides", map->strides[i]);
    return status;
}

static convjit_status check_packing_launch(place *at, const cj_launch *l)
{
    convjit_status status = check_fixed(at, "smem", l->smem);
    for (int axis = 0; !status && axis < 3; axis++)
        status = check_fixed(at, grid_names[axis], l->grid[axis]);
    for (int i = 0; !status && i < l->n_args; i++) {
        at->arg = i + 1;
        status = check_packing_arg(at, &l->args[i]);
    }
    at->arg = 0;
    return status;
}

static bool takes_packed(const cj_launch *l)
{
    for (int i = 0; i < l->n_args; i++)
        if (l->args[i].kind == CJ_ARG_PACKED || (l->args[i].map && l->args[i].map->tensor == CJ_ARG_PACKED))
            return true;
    return false;
}

static convjit_status check_packing(const cj_kernel *k, convjit_status failure)
{
    place at = {.kernel = k, .status = failure};
    convjit_status status = k->packed ? check_expr(&at, "packed", k->packed) : CONVJIT_OK;
    if (!status)
        status = check_fixed(&at, "packed", k->packed);
    if (!status && k->packed && !k->launches[0].packs)
        status = broken(&at, "packed: the first launch does not pack");
    for (int i = 0; !status && i < k->n_launches; i++) {
        const cj_launch *l = &k->launches[i];
        at.launch = i + 1;
        if (!k->packed && (l->packs || takes_packed(l)))
            status = broken(&at, "packed weights, of which the kernel has none");
        else if (l->packs && i > 0 && !l[-1].packs)
            status = broken(&at, "packs: the launch before does not");
        else if (l->packs)
            status = check_packing_launch(&at, l);
    }
    return status;
}

static bool writes_output(const cj_kernel *k)
{
    for (int i = 0; i < k->n_launches; i++)
        for (int i_arg = 0; i_arg < k->launches[i].n_args; i_arg++) {
            const cj_arg *arg = &k->launches[i].args[i_arg];
            if (arg->kind == CJ_ARG_OUTPUT || (arg->kind == CJ_ARG_TENSOR_MAP && arg->map->tensor == CJ_ARG_OUTPUT))
                return true;
        }
    return false;
}

convjit_status cj_kernel_check(const cj_kernel *k, bool from_cache)
{
    place at = {.kernel = k, .status = from_cache ? CONVJIT_CORRUPT : CONVJIT_GENERATE};
    convjit_status status = check_names(&at, from_cache);
    if (!status)
        status = check_options(&at);
    if (!status)
        status = check_expr(&at, "workspace", k->workspace);
    if (!status)
        status = check_count(&at, "align", k->align, 1, MAX_ALIGN);
    if (!status)
        status = check_count(&at, "parts", k->parts, 0, CJ_MAX_PARTS);
    if (!status && (k->align & (k->align - 1)))
        status = broken(&at, "align: %d is not a power of two", k->align);
    if (!status)
        status = check_requires(&at);
    if (!status)
        status = check_count(&at, "launches", k->n_launches, 1, CJ_MAX_LAUNCHES);
    for (int i = 0; !status && i < k->n_launches; i++) {
        at.launch = i + 1;
        status = check_launch(&at, &k->launches[i]);
    }
    at.launch = 0;
    if (!status)
        status = check_map_alignment(&at);
    if (!status)
        status = check_packing(k, at.status);
    if (!status && !writes_output(k))
        status = broken(&at, "launches: none of them takes the output");
    return status;
}

/* ---- Writing ---- */

static void write_map(const cj_tensor_arg *arg, cj_text *out)
{
    const cj_tensor_map *m = &arg->map;
    cj_text_printf(out, "arg %s %s\nmap_element %s\n", arg_names[CJ_ARG_TENSOR_MAP], arg_names[arg->tensor],
                   cj_map_element_name(m->element));
    if (m->swizzle)
        cj_text_printf(out, "map_swizzle %d\n", m->swizzle);
    cj_text_printf(out, "map_offset %s\n", arg->offset);
    for (int i = 0; i < m->rank; i++) {
        cj_text_printf(out, "map_dim %s\n", arg->dims[i]);
        if (i > 0)
            cj_text_printf(out, "map_stride %s\n", arg->strides[i - 1]);
        cj_text_printf(out, "map_box %d\nmap_every %d\n", m->box[i], m->element_strides[i]);
    }
}

static bool is_clustered(const cj_launch *l)
{
    return l->cluster[0] * l->cluster[1] * l->cluster[2] > 1;
}

static void write_launch(const cj_launch *l, cj_text *out)
{
    cj_text_printf(out, "launch %s\n", l->entry);
    for (int axis = 0; axis < 3; axis++)
        cj_text_printf(out, "%s %s\n", grid_names[axis], l->grid[axis]);
    for (int axis = 0; axis < 3; axis++)
        cj_text_printf(out, "%s %d\n", block_names[axis], l->block[axis]);
    for (int axis = 0; is_clustered(l) && axis < 3; axis++)
        cj_text_printf(out, "%s %d\n", cluster_names[axis], l->cluster[axis]);
    if (l->packs)
        cj_text_puts(out, "packs\n");
    if (l->overlap)
        cj_text_puts(out, "overlap\n");
    cj_text_printf(out, "smem %s\n", l->smem);
    for (int i = 0; i < l->n_args; i++) {
        const cj_arg *arg = &l->args[i];
        if (arg->kind == CJ_ARG_TENSOR_MAP)
            write_map(arg->map, out);
        else
            cj_text_printf(out, "arg %s%s%s\n", arg_names[arg->kind], arg->expr ? " " : "", arg->expr ? arg->expr : "");
    }
}

convjit_status cj_kernel_write(const cj_kernel *k, cj_text *out)
{
    convjit_status status = cj_kernel_check(k, k->source == NULL);
    if (status)
        return status;
    cj_text_printf(out, "%s\nname %s\ntuple %s\narch %s\nschedule %s\nwhy %s\n", HEADER, k->name, k->tuple, k->arch,
                   k->schedule, k->why);
    for (int i = 0; i < k->n_options; i++)
        cj_text_printf(out, "option %s\n", k->options[i]);
    cj_text_printf(out, "workspace %s\n", k->workspace);
    if (k->packed)
        cj_text_printf(out, "packed %s\n", k->packed);
    cj_text_printf(out, "align %d\n", k->align);
    for (int i = 0; i < k->n_requires; i++)
        cj_text_printf(out, "require %s\nbecause %s\n", k->requires[i].expr, k->requires[i].why);
    for (int i = 0; i < k->n_launches; i++)
        write_launch(&k->launches[i], out);
    cj_text_puts(out, "end\n");
    return out->failed ? cj_fail(CONVJIT_NO_MEMORY, "out of memory for a kernel description") : CONVJIT_OK;
}

/* ---- Reading ---- */

typedef struct reader { const char *at, *end; int line; } reader;

/* The next line is a keyword and a blank. */
static bool next_is(const reader *r, const char *keyword)
{
    size_t n = strlen(keyword);
    return (size_t)(r->end - r->at) > n && memcmp(r->at, keyword, n) == 0 && r->at[n] == ' ';
}

/* Takes the line "keyword VALUE"; *value is not terminated. */
static convjit_status take_value(reader *r, const char *keyword, const char **value, size_t *length)
{
    const char *newline = r->at < r->end ? memchr(r->at, '\n', (size_t)(r->end - r->at)) : NULL;
    if (!newline || !next_is(r, keyword))
        return cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: expected \"%s\" and a value", r->line, keyword);
    *value = r->at + strlen(keyword) + 1;
    *length = (size_t)(newline - *value);
    if (memchr(*value, 0, *length))
        return cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: %s holds a zero byte", r->line, keyword);
    r->at = newline + 1;
    r->line++;
    return CONVJIT_OK;
}

/* Takes the next line if it has nothing but these words. */
static bool take_if(reader *r, const char *words)
{
    size_t n = strlen(words);
    if ((size_t)(r->end - r->at) <= n || memcmp(r->at, words, n) != 0 || r->at[n] != '\n')
        return false;
    r->at += n + 1;
    r->line++;
    return true;
}

static convjit_status take_words(reader *r, const char *words)
{
    if (!take_if(r, words))
        return cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: expected \"%s\"", r->line, words);
    return CONVJIT_OK;
}

static convjit_status copy(const char *value, size_t length, char **out)
{
    *out = strndup(value, length);
    return *out ? CONVJIT_OK : cj_fail(CONVJIT_NO_MEMORY, "out of memory for a kernel description");
}

static convjit_status take_string(reader *r, const char *keyword, char **out)
{
    const char *value;
    size_t length;
    convjit_status status = take_value(r, keyword, &value, &length);
    return status ? status : copy(value, length, out);
}

/* A positive number below 10^6 in the one form that "%d" writes; every limit is far below. */
static convjit_status take_int(reader *r, const char *keyword, int *out)
{
    const char *value;
    size_t length;
    convjit_status status = take_value(r, keyword, &value, &length);
    if (status)
        return status;
    bool ok = length >= 1 && length <= 6 && value[0] != '0';
    int v = 0;
    for (size_t i = 0; ok && i < length; i++) {
        ok = value[i] >= '0' && value[i] <= '9';
        v = v * 10 + (value[i] - '0');
    }
    if (!ok)
        return cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: %s is not a number from 1 to 999999", r->line - 1,
                       keyword);
    *out = v;
    return CONVJIT_OK;
}

/* Says that there are more lines of a kind than a kernel may have. */
static convjit_status too_many(const reader *r, const char *keyword, int limit)
{
    return cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: \"%s\" comes more often than the limit %d", r->line,
                   keyword, limit);
}

static convjit_status take_axis(reader *r, cj_tensor_arg *arg, int i)
{
    convjit_status status = take_string(r, "map_dim", &arg->dims[i]);
    if (!status && i > 0)
        status = take_string(r, "map_stride", &arg->strides[i - 1]);
    if (!status)
        status = take_int(r, "map_box", &arg->map.box[i]);
    return status ? status : take_int(r, "map_every", &arg->map.element_strides[i]);
}

static convjit_status take_map(reader *r, cj_tensor_arg *arg)
{
    const char *value;
    size_t length;
    convjit_status status = take_value(r, "map_element", &value, &length);
    if (!status && !cj_map_element_parse(value, length, &arg->map.element))
        status = cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: map_element is unknown", r->line - 1);
    if (!status && next_is(r, "map_swizzle"))
        status = take_int(r, "map_swizzle", &arg->map.swizzle);
    if (!status)
        status = take_string(r, "map_offset", &arg->offset);
    while (!status && next_is(r, "map_dim")) {
        if (arg->map.rank == CJ_MAX_AXES)
            return too_many(r, "map_dim", CJ_MAX_AXES);
        status = take_axis(r, arg, arg->map.rank++);
    }
    return status;
}

/* The value behind the kind: the memory's name. */
static convjit_status take_map_of(reader *r, const char *name, size_t length, cj_arg *arg)
{
    arg->map = calloc(1, sizeof *arg->map);
    if (!arg->map)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a kernel description");
    if (!cj_arg_kind_parse(name, length, &arg->map->tensor) || arg->map->tensor > CJ_ARG_PACKED)
        return cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: expected the name of a tensor, workspace or packed", r->line - 1);
    return take_map(r, arg->map);
}

static convjit_status take_arg(reader *r, cj_arg *arg)
{
    const char *value;
    size_t length;
    convjit_status status = take_value(r, "arg", &value, &length);
    if (status)
        return status;
    const char *blank = memchr(value, ' ', length);
    size_t name = blank ? (size_t)(blank - value) : length;
    bool known = cj_arg_kind_parse(value, name, &arg->kind), is_map = known && arg->kind == CJ_ARG_TENSOR_MAP;
    if (is_map && blank)
        return take_map_of(r, blank + 1, length - name - 1, arg);
    if (!known || is_map || has_expr(arg->kind) != (blank != NULL))
        return cj_fail(CONVJIT_CORRUPT,
                       "kernel description, line %d: expected the kind of an argument, and its expression",
                       r->line - 1);
    return blank ? copy(blank + 1, length - name - 1, &arg->expr) : CONVJIT_OK;
}

static convjit_status take_launch(reader *r, cj_launch *l)
{
    convjit_status status = take_string(r, "launch", &l->entry);
    for (int axis = 0; !status && axis < 3; axis++)
        status = take_string(r, grid_names[axis], &l->grid[axis]);
    for (int axis = 0; !status && axis < 3; axis++)
        status = take_int(r, block_names[axis], &l->block[axis]);
    l->cluster[0] = l->cluster[1] = l->cluster[2] = 1;
    bool clustered = !status && next_is(r, cluster_names[0]);
    for (int axis = 0; clustered && !status && axis < 3; axis++)
        status = take_int(r, cluster_names[axis], &l->cluster[axis]);
    if (clustered && !status && !is_clustered(l))
        status = cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: a cluster of one block is not written", r->line - 1);
    l->packs = !status && take_if(r, "packs");
    l->overlap = !status && take_if(r, "overlap");
    if (!status)
        status = take_string(r, "smem", &l->smem);
    while (!status && next_is(r, "arg")) {
        if (l->n_args == CJ_MAX_ARGS)
            return too_many(r, "arg", CJ_MAX_ARGS);
        status = take_arg(r, &l->args[l->n_args++]);
    }
    return status;
}

static convjit_status take_head(reader *r, cj_kernel *k)
{
    const struct { const char *keyword; char **field; } head[] = {
        {"name", &k->name}, {"tuple", &k->tuple}, {"arch", &k->arch}, {"schedule", &k->schedule}, {"why", &k->why},
    };
    convjit_status status = take_words(r, HEADER);
    for (size_t i = 0; !status && i < sizeof head / sizeof *head; i++)
        status = take_string(r, head[i].keyword, head[i].field);
    while (!status && next_is(r, "option")) {
        if (k->n_options == CJ_MAX_OPTIONS)
            return too_many(r, "option", CJ_MAX_OPTIONS);
        status = take_string(r, "option", &k->options[k->n_options++]);
    }
    if (!status)
        status = take_string(r, "workspace", &k->workspace);
    if (!status && next_is(r, "packed"))
        status = take_string(r, "packed", &k->packed);
    if (!status)
        status = take_int(r, "align", &k->align);
    return status;
}

static convjit_status take_kernel(reader *r, cj_kernel *k)
{
    convjit_status status = take_head(r, k);
    while (!status && next_is(r, "require")) {
        if (k->n_requires == CJ_MAX_REQUIRES)
            return too_many(r, "require", CJ_MAX_REQUIRES);
        int i = k->n_requires++;
        status = take_string(r, "require", &k->requires[i].expr);
        if (!status)
            status = take_string(r, "because", &k->requires[i].why);
    }
    while (!status && next_is(r, "launch")) {
        if (k->n_launches == CJ_MAX_LAUNCHES)
            return too_many(r, "launch", CJ_MAX_LAUNCHES);
        status = take_launch(r, &k->launches[k->n_launches++]);
    }
    if (!status)
        status = take_words(r, "end");
    if (!status && r->at != r->end)
        status = cj_fail(CONVJIT_CORRUPT, "kernel description, line %d: expected nothing behind \"end\"", r->line);
    return status;
}

convjit_status cj_kernel_read(const char *text, size_t length, cj_kernel **out)
{
    cj_kernel *k = calloc(1, sizeof *k);
    if (!k)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a kernel description");
    reader r = {text, text + length, 1};
    convjit_status status = take_kernel(&r, k);
    if (!status)
        status = cj_kernel_check(k, true);
    if (status)
        cj_kernel_free(k);
    else
        *out = k;
    return status;
}
