/* benchdnn.c: reads the problem descriptors of oneDNN's benchdnn.
 *
 * gXmbX_icXidXihXiwX_ocXodXohXowX_kdXkhXkwX_sdXshXswX_pdXphXpwX_ddXdhXdwX_nNAME, in any order, with or without '_'.
 * Its rules, in its own words "square form" and "trivial padding":
 *   - g is 1 and mb is 2 unless given; strides are 1; dilation counts from 0.
 *   - If nothing is said of the width, it takes all of the height's values; if nothing of the height, it is 1.
 *   - With ow but no pw, padding is what the output needs, half of it in front, rounded down; with neither, it is 0.
 *   - The padding behind follows from ow.
 * We write the padding behind as equal to the one in front whenever that gives the same output, so that a layer has
 * one name wherever its description came from.
 */
#include <inttypes.h>
#include <string.h>
#include "internal.h"

enum { DEPTH, HEIGHT, WIDTH, AXES };
static const char axis_letters[] = "dhw";

/* What is said of an axis: kind 'o' and axis 'h' make the key "oh". */
enum { INPUT, OUTPUT, KERNEL, STRIDE, PADDING, DILATION, KINDS };
static const char kind_letters[] = "iokspd";

enum { GROUPS, BATCH, IN_CHANNELS, OUT_CHANNELS, PLAIN };
static const char *const plain_keys[PLAIN] = {"g", "mb", "ic", "oc"};

typedef struct item { bool given; int64_t value; } item;

typedef struct descriptor {
    const char *text, *at;
    item plain[PLAIN], axis[AXES][KINDS];
} descriptor;

static convjit_status wrong(const descriptor *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
static convjit_status wrong(const descriptor *d, const char *format, ...)
{
    char detail[512], quoted[CJ_QUOTE];
    va_list args;
    va_start(args, format);
    cj_vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    cj_quote(quoted, d->text, strlen(d->text));
    return cj_fail(CONVJIT_PARSE, "benchdnn descriptor %s, column %zu: %s", quoted, (size_t)(d->at - d->text) + 1,
                   detail);
}

/* The item that the key at `at` names, and the key's length; NULL if there is no key. */
static item *find_item(descriptor *d, const char *at, size_t *length, int64_t *least)
{
    *least = 1;
    for (int i = 0; i < PLAIN; i++) {
        *length = strlen(plain_keys[i]);
        if (strncmp(at, plain_keys[i], *length) == 0)
            return &d->plain[i];
    }
    const char *kind = *at ? strchr(kind_letters, at[0]) : NULL;
    const char *axis = kind && at[1] ? strchr(axis_letters, at[1]) : NULL;
    if (!axis)
        return NULL;
    *length = 2;
    *least = kind - kind_letters == PADDING || kind - kind_letters == DILATION ? 0 : 1;
    return &d->axis[axis - axis_letters][kind - kind_letters];
}

bool cj_is_benchdnn(const char *text)
{
    descriptor d = {.text = text, .at = text};
    size_t length;
    int64_t least;
    return find_item(&d, text, &length, &least) && text[length] >= '0' && text[length] <= '9';
}

/* One key and its number. */
static convjit_status read_item(descriptor *d)
{
    const char *key = d->at;
    size_t length;
    int64_t least, value = 0;
    item *it = find_item(d, key, &length, &least);
    if (!it)
        return wrong(d, "expected a key: g mb ic ih iw oc oh ow kh kw sh sw ph pw dh dw, or n and a name");
    if (it->given)
        return wrong(d, "%.*s is given twice", (int)length, key);
    d->at += length;
    if (*d->at < '0' || *d->at > '9')
        return wrong(d, "expected a number for %.*s", (int)length, key);
    for (; *d->at >= '0' && *d->at <= '9'; d->at++) {
        value = value * 10 + (*d->at - '0');
        if (value > INT32_MAX)
            return cj_fail(CONVJIT_INVALID, "%.*s is above the limit %d", (int)length, key, INT32_MAX);
    }
    if (value < least)
        return cj_fail(CONVJIT_INVALID, "%.*s %" PRId64 " is below %" PRId64, (int)length, key, value, least);
    *it = (item){true, value};
    return CONVJIT_OK;
}

static convjit_status read_items(descriptor *d)
{
    while (*d->at && *d->at != 'n') { /* n: the rest is a name */
        if (*d->at == '_') {
            d->at++;
            continue;
        }
        convjit_status status = read_item(d);
        if (status)
            return status;
    }
    for (int i = IN_CHANNELS; i <= OUT_CHANNELS; i++)
        if (!d->plain[i].given)
            return wrong(d, "expected %s somewhere before here", plain_keys[i]);
    return CONVJIT_OK;
}

/* True if the descriptor says nothing of the axis. To benchdnn, stride 1, padding 0 and dilation 0 are nothing. */
static bool is_silent(const item a[KINDS])
{
    return !a[INPUT].given && !a[OUTPUT].given && !a[KERNEL].given && a[DILATION].value == 0 && a[PADDING].value == 0 &&
           (!a[STRIDE].given || a[STRIDE].value == 1);
}

static convjit_status refuse_depth(const descriptor *d)
{
    for (int kind = 0; kind < KINDS; kind++) {
        const item *it = &d->axis[DEPTH][kind];
        int64_t flat = kind == PADDING || kind == DILATION ? 0 : 1;
        if (it->given && it->value != flat)
            return cj_fail(CONVJIT_INVALID, "%cd %" PRId64 " is not %" PRId64 ": there are two spatial axes, h and w",
                           kind_letters[kind], it->value, flat);
    }
    return CONVJIT_OK;
}

/* Gives an axis that is not described its values. */
static convjit_status complete_axes(descriptor *d)
{
    static const item one[KINDS] = {[INPUT] = {true, 1}, [KERNEL] = {true, 1}};
    bool no_h = is_silent(d->axis[HEIGHT]), no_w = is_silent(d->axis[WIDTH]);
    if (no_h && no_w)
        return wrong(d, "expected ih and kh somewhere before here");
    if (no_w)
        memcpy(d->axis[WIDTH], d->axis[HEIGHT], sizeof d->axis[WIDTH]);
    else if (no_h)
        memcpy(d->axis[HEIGHT], one, sizeof one);
    return CONVJIT_OK;
}

/* One axis of the problem. Values are below 2^31, so that nothing overflows 64 bits. */
typedef struct extent { int64_t size, filter, stride, dil, before, after; } extent;

static int64_t output_size(const extent *e)
{
    int64_t room = e->size + e->before + e->after - e->dil * (e->filter - 1) - 1;
    return room < 0 ? 0 : room / e->stride + 1;
}

/* Sets the padding behind, such that the output has `out` pixels. */
static convjit_status pad_behind(extent *e, char letter, int64_t out)
{
    e->after = e->before;
    if (output_size(e) == out)
        return CONVJIT_OK;
    int64_t needed = (out - 1) * e->stride + e->dil * (e->filter - 1) + 1 - e->size - e->before;
    e->after = needed > 0 ? needed : 0;
    if (output_size(e) == out)
        return CONVJIT_OK;
    return cj_fail(CONVJIT_INVALID, "o%c %" PRId64 " needs a padding of %" PRId64 " behind, which is below 0",
                   letter, out, needed);
}

static convjit_status resolve_axis(const descriptor *d, int axis, extent *e)
{
    const item *a = d->axis[axis];
    char letter = axis_letters[axis];
    for (int kind = INPUT; kind <= KERNEL; kind++)
        if (kind != OUTPUT && !a[kind].given)
            return wrong(d, "expected %c%c somewhere before here", kind_letters[kind], letter);
    *e = (extent){a[INPUT].value, a[KERNEL].value, a[STRIDE].given ? a[STRIDE].value : 1, a[DILATION].value + 1,
                  a[PADDING].value, a[PADDING].value};
    if (!a[OUTPUT].given)
        return CONVJIT_OK;
    if (!a[PADDING].given) {
        int64_t total = (a[OUTPUT].value - 1) * e->stride + e->dil * (e->filter - 1) + 1 - e->size;
        if (total / 2 < 0)
            return cj_fail(CONVJIT_INVALID, "o%c %" PRId64 " needs a padding of %" PRId64 " in front, which is below 0",
                           letter, a[OUTPUT].value, total / 2);
        e->before = total / 2;
    }
    return pad_behind(e, letter, a[OUTPUT].value);
}

static void fill(convjit_problem *p, const descriptor *d, const extent *h, const extent *w)
{
    const item *plain = d->plain;
    p->n = plain[BATCH].given ? plain[BATCH].value : 2;
    p->groups = plain[GROUPS].given ? plain[GROUPS].value : 1;
    p->c = plain[IN_CHANNELS].value;
    p->k = plain[OUT_CHANNELS].value;
    p->h = h->size, p->r = h->filter, p->stride_h = h->stride, p->dil_h = h->dil, p->pad_top = h->before;
    p->w = w->size, p->s = w->filter, p->stride_w = w->stride, p->dil_w = w->dil, p->pad_left = w->before;
    p->pad_bottom = h->after;
    p->pad_right = w->after;
}

convjit_status cj_benchdnn_parse(convjit_problem *problem, const char *text)
{
    descriptor d = {.text = text, .at = text};
    extent h, w;
    convjit_status status = read_items(&d);
    if (!status)
        status = refuse_depth(&d);
    if (!status)
        status = complete_axes(&d);
    if (!status)
        status = resolve_axis(&d, HEIGHT, &h);
    if (!status)
        status = resolve_axis(&d, WIDTH, &w);
    if (!status)
        fill(problem, &d, &h, &w);
    return status;
}
