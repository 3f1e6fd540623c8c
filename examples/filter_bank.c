/* filter_bank.c: a photograph goes through a bank of oriented filters, and a picture of what they see is written.
 * usage: filter_bank [PHOTOGRAPH.ppm [PICTURE.png]]      default: examples/coffee.ppm, filter_bank.png
 *
 * The bank is 16 Gabor filters of 15x15: 8 orientations, each as an even (cosine) and an odd (sine) wave under a Gaussian.
 * One convolution of 1 channel to 16, stride 1, padding 7, gives all responses at every pixel. The root of the sum of the
 * squares of a pair is the energy of an orientation: large along edges and lines of that direction, whatever their phase.
 *
 * The picture: the photograph; beside it the orientations, with hue for the direction of an edge and brightness for its
 * energy (the ring in the corner shows which hue is which: a circle's outline has every direction once); below them the
 * energies of the 8 orientations, each in its hue. */
#include <math.h>
#include <string.h>
#include "example.h"
#include "png.h"

enum { SIZE = 15, ORIENTATIONS = 8, FILTERS = 2 * ORIENTATIONS, GAP = 4 };
#define PI 3.14159265358979f

typedef struct picture { int width, height; unsigned char *rgb; } picture;

static picture make_picture(int width, int height)
{
    picture p = { width, height, allocate(3 * (size_t)width * (size_t)height) };
    memset(p.rgb, 0, 3 * (size_t)width * (size_t)height);
    return p;
}

static unsigned char *pixel(const picture *p, int x, int y)
{
    return p->rgb + 3 * ((size_t)y * (size_t)p->width + (size_t)x);
}

/* A binary PPM of 8 bits a channel, without comments. */
static picture read_ppm(const char *file)
{
    FILE *f = fopen(file, "rb");
    int width = 0, height = 0, most = 0;
    if (!f || fscanf(f, "P6 %d %d %d", &width, &height, &most) != 3 || fgetc(f) == EOF || most != 255 || width < 32 ||
        height < 32 || width > 8192 || height > 8192) {
        fprintf(stderr, "%s: not a binary PPM picture (P6, maximum 255) of 32x32 to 8192x8192\n", file);
        exit(1);
    }
    picture p = make_picture(width, height);
    size_t bytes = 3 * (size_t)width * (size_t)height;
    if (fread(p.rgb, 1, bytes, f) != bytes) {
        fprintf(stderr, "%s: too short\n", file);
        exit(1);
    }
    fclose(f);
    return p;
}

/* Luminance from 0 to 1, less its mean, so that the zeros of the padding are no edge. */
static float *luminance(const picture *p)
{
    size_t n = (size_t)p->width * (size_t)p->height;
    float *l = allocate(n * sizeof *l);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char *c = p->rgb + 3 * i;
        l[i] = (0.2126f * (float)c[0] + 0.7152f * (float)c[1] + 0.0722f * (float)c[2]) / 255;
        sum += (double)l[i];
    }
    for (size_t i = 0; i < n; i++)
        l[i] -= (float)(sum / (double)n);
    return l;
}

/* ---- The filters ---- */

/* Direction of the edges that filter pair o answers to, as an angle from the x axis towards y upwards. */
static float direction(int o)
{
    return PI * (float)o / ORIENTATIONS;
}

/* A Gabor filter: a wave across the direction, under a Gaussian that is longer along it. Its mean is 0, its length 1. */
static void gabor(float angle, int odd, float filter[SIZE * SIZE])
{
    const float wavelength = 7, sigma = 2.6f, elongation = 1.5f;
    float mean = 0, length = 0;
    for (int i = 0; i < SIZE * SIZE; i++) {
        float x = (float)(i % SIZE - SIZE / 2), y = (float)(SIZE / 2 - i / SIZE); /* y upwards */
        float along = x * cosf(angle) + y * sinf(angle), across = y * cosf(angle) - x * sinf(angle);
        float gaussian = expf(-(across * across + along * along / (elongation * elongation)) / (2 * sigma * sigma));
        float phase = 2 * PI * across / wavelength;
        filter[i] = gaussian * (odd ? sinf(phase) : cosf(phase));
        mean += filter[i] / (SIZE * SIZE);
    }
    for (int i = 0; i < SIZE * SIZE; i++) {
        filter[i] -= mean;
        length += filter[i] * filter[i];
    }
    for (int i = 0; i < SIZE * SIZE; i++)
        filter[i] /= sqrtf(length);
}

/* The convolution: responses of all filters, one plane after the other. */
static float *respond(const picture *photograph, const char **device)
{
    static float filters[FILTERS][SIZE * SIZE];
    char text[96];
    convjit_problem p;
    convjit_plan *plan;
    convjit *cj = open_any(device);
    for (int i = 0; i < FILTERS; i++)
        gabor(direction(i / 2), i % 2, filters[i]);
    snprintf(text, sizeof text, "n1c1h%dw%dk%dr%ds%d_pad%d", photograph->height, photograph->width, FILTERS, SIZE, SIZE,
             SIZE / 2);
    TRY(convjit_problem_parse(&p, text));
    TRY(convjit_plan_create(&plan, cj, &p));

    float *x = luminance(photograph), *y = allocate(tensor_bytes(&p, CONVJIT_OUTPUT));
    void *dx = upload(cj, x, tensor_bytes(&p, CONVJIT_INPUT)), *dw = upload(cj, filters, sizeof filters);
    void *dy, *workspace = NULL;
    TRY(convjit_device_alloc(cj, &dy, tensor_bytes(&p, CONVJIT_OUTPUT)));
    if (convjit_plan_workspace(plan) > 0)
        TRY(convjit_device_alloc(cj, &workspace, convjit_plan_workspace(plan)));
    convjit_tensors t = { .size = sizeof t, .input = dx, .weights = dw, .output = dy, .workspace = workspace };
    TRY(convjit_plan_launch(plan, &t, NULL));
    TRY(convjit_device_read(cj, y, dy, tensor_bytes(&p, CONVJIT_OUTPUT)));

    convjit_device_free(cj, dx);
    convjit_device_free(cj, dw);
    convjit_device_free(cj, dy);
    convjit_device_free(cj, workspace);
    convjit_plan_destroy(plan);
    convjit_close(cj);
    free(x);
    return y;
}

/* ---- The picture ---- */

/* Energies of the orientations, plane after plane, scaled so that all but the strongest thousandth are within 0..1. */
static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float *energies(const float *response, size_t pixels)
{
    size_t n = pixels * ORIENTATIONS;
    float *e = allocate(n * sizeof *e), *sorted = allocate(n * sizeof *sorted);
    for (size_t i = 0; i < n; i++) {
        const float *even = response + 2 * (i / pixels) * pixels + i % pixels;
        e[i] = hypotf(even[0], even[pixels]);
    }
    memcpy(sorted, e, n * sizeof *e);
    qsort(sorted, n, sizeof *sorted, compare_floats);
    float most = fmaxf(sorted[n - n / 1000 - 1], 1e-6f);
    for (size_t i = 0; i < n; i++)
        e[i] = fminf(e[i] / most, 1);
    free(sorted);
    return e;
}

/* Hue for a direction (which repeats after half a turn), saturation and brightness from 0 to 1. */
static void set_colour(unsigned char *rgb, float angle, float saturation, float brightness)
{
    for (int i = 0; i < 3; i++) {
        float wave = 0.5f + 0.5f * cosf(2 * angle - 2 * PI * (float)i / 3);
        rgb[i] = (unsigned char)(255 * brightness * (1 - saturation * (1 - wave)) + 0.5f);
    }
}

static void draw_photograph(const picture *canvas, const picture *photograph)
{
    for (int y = 0; y < photograph->height; y++)
        memcpy(pixel(canvas, 0, y), pixel(photograph, 0, y), 3 * (size_t)photograph->width);
}

/* The directions of all energies, added as vectors of twice the angle: what points everywhere cancels to grey. */
static void draw_orientations(const picture *canvas, int left, const float *energy, int width, int height)
{
    size_t pixels = (size_t)width * (size_t)height;
    for (size_t i = 0; i < pixels; i++) {
        float x = 0, y = 0, sum = 1e-6f, most = 0;
        for (int o = 0; o < ORIENTATIONS; o++) {
            float e = energy[(size_t)o * pixels + i];
            x += e * cosf(2 * direction(o));
            y += e * sinf(2 * direction(o));
            sum += e;
            most = fmaxf(most, e);
        }
        float saturation = fminf(1.6f * hypotf(x, y) / sum, 1);
        set_colour(pixel(canvas, left + (int)(i % (size_t)width), (int)(i / (size_t)width)), atan2f(y, x) / 2, saturation,
                   sqrtf(most));
    }
}

/* A ring whose outline at each place has the direction that its colour means. */
static void draw_legend(const picture *canvas, int right, int bottom)
{
    const int radius = 18;
    for (int y = -radius - 2; y <= radius + 2; y++)
        for (int x = -radius - 2; x <= radius + 2; x++) {
            float r = hypotf((float)x, (float)y);
            unsigned char *at = pixel(canvas, right - radius - 6 + x, bottom - radius - 6 + y);
            if (r <= (float)radius && r >= 0.6f * (float)radius)
                set_colour(at, atan2f((float)-y, (float)x) + PI / 2, 1, 1);
            else if (r < (float)radius + 2)
                memset(at, 0, 3);
        }
}

/* One orientation's energy at half size, in its hue. */
static void draw_energy(const picture *canvas, int left, int top, const float *energy, int width, int height, int o)
{
    for (int y = 0; y < height / 2; y++)
        for (int x = 0; x < width / 2; x++) {
            const float *at = energy + ((size_t)o * (size_t)height + 2 * (size_t)y) * (size_t)width + 2 * x;
            float mean = (at[0] + at[1] + at[width] + at[width + 1]) / 4;
            set_colour(pixel(canvas, left + x, top + y), direction(o), 0.7f, powf(mean, 0.4f));
        }
}

static picture draw(const picture *photograph, const float *energy)
{
    int width = photograph->width, height = photograph->height, column = width / 2 + GAP, row = height / 2 + GAP;
    int total = 4 * column - GAP > 2 * width + GAP ? 4 * column - GAP : 2 * width + GAP;
    picture canvas = make_picture(total, height + 2 * row);
    draw_photograph(&canvas, photograph);
    draw_orientations(&canvas, total - width, energy, width, height);
    draw_legend(&canvas, total, height);
    for (int o = 0; o < ORIENTATIONS; o++)
        draw_energy(&canvas, o % 4 * column, height + GAP + o / 4 * row, energy, width, height, o);
    return canvas;
}

int main(int argc, char **argv)
{
    const char *in = argc > 1 ? argv[1] : "examples/coffee.ppm", *out = argc > 2 ? argv[2] : "filter_bank.png", *device;
    picture photograph = read_ppm(in);
    float *response = respond(&photograph, &device);
    float *energy = energies(response, (size_t)photograph.width * (size_t)photograph.height);
    picture canvas = draw(&photograph, energy);
    if (png_write(out, canvas.width, canvas.height, canvas.rgb) != 0) {
        perror(out);
        return 1;
    }
    printf("%s (%dx%d) through %d filters of %dx%d on %s: %s\n", in, photograph.width, photograph.height, FILTERS, SIZE, SIZE,
           device, out);
    free(photograph.rgb);
    free(canvas.rgb);
    free(response);
    free(energy);
    return 0;
}
