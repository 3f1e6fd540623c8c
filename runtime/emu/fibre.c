/* fibre.c: stacks, and switching between them. A CUDA thread of the emulated device runs on one of these.
 *
 * The switch saves what the calling convention says a function must preserve, and nothing else: a few nanoseconds, against
 * half a microsecond for swapcontext, which also makes a system call for the signal mask. ucontext serves other machines.
 *
 * No signal handler is installed for the guard pages: a handler is the process's, not a library's, and every access of a
 * kernel is checked before it happens (access.c). Guard pages are the backstop for what is not checked: a kernel whose
 * local variables overflow its stack, and host code that overruns a tensor. Those end the program where they happen.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "emu.h"

/* AddressSanitizer marks parts of a stack; a fibre that a fault abandoned leaves its marks behind. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define FORGET_MARKS(stack) __asan_unpoison_memory_region(stack, CJ_EMU_STACK_BYTES)
#else
#define FORGET_MARKS(stack) ((void)0)
#endif

void *cj_stack_map(void)
{
    size_t size = CJ_EMU_STACK_BYTES, page = (size_t)sysconf(_SC_PAGESIZE);
    char *area = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return NULL;
    char *stack = area + (size - (uintptr_t)area % size) % size;
    if (stack > area)
        munmap(area, (size_t)(stack - area));
    if (stack + size < area + 2 * size)
        munmap(stack + size, (size_t)(area + 2 * size - (stack + size)));
    if (mprotect(stack, page, PROT_NONE) != 0) {
        munmap(stack, size);
        return NULL;
    }
    return stack;
}

void cj_stack_unmap(void *stack)
{
    munmap(stack, CJ_EMU_STACK_BYTES);
}

/* All stacks have the same alignment, so without this the busy end of each would fall into the same few cache sets. */
uintptr_t cj_stack_top(const void *stack, unsigned color)
{
    return (uintptr_t)stack + CJ_EMU_STACK_BYTES - 64 - (color % 61) * 192;
}

#ifdef CJ_FIBRE_UCONTEXT

void cj_fibre_prepare(cj_fibre *fibre, void *stack, unsigned color, void (*main)(void))
{
    FORGET_MARKS(stack);
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = stack;
    fibre->context.uc_stack.ss_size = cj_stack_top(stack, color) - (uintptr_t)stack;
    fibre->context.uc_link = NULL;
    makecontext(&fibre->context, main, 0);
}

void cj_fibre_switch(cj_fibre *from, cj_fibre *to)
{
    swapcontext(&from->context, &to->context);
}

#else

/* Pushes the preserved registers, stores the stack pointer in *from, takes the other's, pops, returns into the other. */
void cj_fibre_exchange(void **from, void *to) __attribute__((visibility("hidden")));

#if defined(__x86_64__)

enum { SAVED_WORDS = 6, RETURN_WORD = 6 };
__asm__(".text\n"
        ".balign 16\n"
        ".hidden cj_fibre_exchange\n"
        ".globl cj_fibre_exchange\n"
        ".type cj_fibre_exchange, @function\n"
        "cj_fibre_exchange:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size cj_fibre_exchange, . - cj_fibre_exchange\n");

#else /* aarch64: x19 to x30 and d8 to d15; "returns" to x30 */

enum { SAVED_WORDS = 20, RETURN_WORD = 11 };
__asm__(".text\n"
        ".balign 16\n"
        ".hidden cj_fibre_exchange\n"
        ".globl cj_fibre_exchange\n"
        ".type cj_fibre_exchange, %function\n"
        "cj_fibre_exchange:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp, #0]\n"
        "    stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n"
        "    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x2, sp\n"
        "    str x2, [x0]\n"
        "    mov sp, x1\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".size cj_fibre_exchange, . - cj_fibre_exchange\n");

#endif

void cj_fibre_prepare(cj_fibre *fibre, void *stack, unsigned color, void (*main)(void))
{
    /* As if main's caller had been suspended: the saved registers, main's address, and (x86-64: where a call would have
     * left it, so that the stack is 16-byte aligned before the call) no return address. */
    FORGET_MARKS(stack);
    void **top = (void **)cj_stack_top(stack, color);
    void **sp = top - 2 - SAVED_WORDS;
    memset(sp, 0, (size_t)((char *)top - (char *)sp));
    memcpy(&sp[RETURN_WORD], &main, sizeof main);
    fibre->sp = sp;
}

void cj_fibre_switch(cj_fibre *from, cj_fibre *to)
{
    cj_fibre_exchange(&from->sp, to->sp);
}

#endif
