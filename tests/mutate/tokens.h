/* tokens.h: the tokens of a kernel's text, with the little of its grammar that mutation needs. */
#ifndef TOKENS_H
#define TOKENS_H

#include <stdbool.h>
#include <stddef.h>

typedef enum token_type { TOKEN_NAME, TOKEN_INTEGER, TOKEN_FLOAT, TOKEN_OPERATOR } token_type;

typedef struct token {
    token_type type;
    size_t at, length;
    unsigned line;
    int match;     /* of a bracket: the other one's number; otherwise -1. '<' and '>' of template arguments are brackets */
    int level;     /* of a binary operator: how tightly it binds, LEVEL_...; of what ends an operand always: LEVEL_END */
    bool is_type;  /* a name that is, or belongs to, a type */
} token;

/* How tightly operators bind. Casts and unary operators are part of their operand. */
enum {
    LEVEL_END = 0, LEVEL_ASSIGN, LEVEL_CONDITION, LEVEL_OR, LEVEL_AND, LEVEL_BIT_OR, LEVEL_BIT_XOR, LEVEL_BIT_AND, LEVEL_EQUAL,
    LEVEL_LESS, LEVEL_SHIFT, LEVEL_SUM, LEVEL_PRODUCT, LEVEL_NONE = 99
};

typedef struct tokens {
    const char *source;
    token *list;
    int n;
} tokens;

/* Tokens from offset `from` on; comments, strings and preprocessor lines are left out. false if memory ran out. */
bool tokens_read(tokens *t, const char *source, size_t from);
void tokens_free(tokens *t);

bool token_is(const tokens *t, int i, const char *text);      /* false for a number outside the list, too */
bool token_has(const tokens *t, int i, const char *part);     /* contains */
char token_bracket(const tokens *t, int i);                   /* '(' '[' '{' '<' or its partner, 0 if it is no bracket */
size_t token_end(const tokens *t, int i);                     /* the offset behind it */

/* The operand that ends before, or begins behind, operator i: everything that binds more tightly than `level`.
 * The number of its first token, and of the one behind its last. */
int operand_first(const tokens *t, int i, int level);
int operand_end(const tokens *t, int i, int level);
/* The first token of the statement that token i is in. */
int statement_first(const tokens *t, int i);

#endif
