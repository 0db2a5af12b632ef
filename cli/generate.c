/* SPDX-License-Identifier: Apache-2.0 */
/* `dropin generate`: text from a checkpoint, symbol by symbol, with the cache. */
#include "cli/cli.h"
#include "train/trainer.h"
#include <stdlib.h>
#include <string.h>

typedef struct generate_options {
    di_text checkpoint, prompt;
    int64_t tokens, top_k, seed, threads;
    double temperature;
} generate_options;

static const di_option rows[] = {
    {.name = "checkpoint",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, generate_options, checkpoint),
     .value = "",
     .help = "the file that train wrote"},
    {.name = "prompt",
     .type = DI_TEXT,
     .offset = DI_FIELD(di_text, generate_options, prompt),
     .value = "",
     .help = "the text to go on from; a long one is given as a word instead; without one, a new line begins"},
    {.name = "tokens",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, generate_options, tokens),
     .value = "200",
     .min = 1,
     .max = 1e9,
     .help = "how many symbols to add"},
    {.name = "temperature",
     .type = DI_NUMBER,
     .offset = DI_FIELD(double, generate_options, temperature),
     .value = "0.8",
     .min = 0,
     .max = 1000,
     .help = "divides the logits; 0: always the likeliest symbol"},
    {.name = "top_k",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, generate_options, top_k),
     .value = "0",
     .min = 0,
     .max = 2147483647,
     .help = "draw among that many likeliest symbols; 0: all"},
    {.name = "seed",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, generate_options, seed),
     .value = "0",
     .min = 0,
     .max = 9e15,
     .help = "of the draws: the same seed gives the same text"},
    {.name = "threads",
     .type = DI_INT,
     .offset = DI_FIELD(int64_t, generate_options, threads),
     .value = "auto",
     .min = 1,
     .max = 1024,
     .flags = DI_AUTO,
     .help = "auto: what affinity and the container's quota give"},
    {.name = NULL}};

static di_status check(const void *given) {
    const generate_options *options = given;
    return options->checkpoint.value[0] ? DI_OK : di_fail(DI_EINVAL, "generate: --checkpoint is missing");
}

/* ---- what goes out is valid UTF-8, also where the model's symbols are bytes ------------------------------------ */

typedef struct utf8_stream {
    FILE *out;
    unsigned char bytes[4];
    int have, want;
    bool at_line_start;
} utf8_stream;

static void put_bytes(utf8_stream *stream, const void *bytes, size_t count) {
    if (count == 0)
        return;
    fwrite(bytes, 1, count, stream->out);
    stream->at_line_start = ((const char *)bytes)[count - 1] == '\n';
}

/* A sequence that broke off becomes U+FFFD. */
static void flush_broken(utf8_stream *stream) {
    if (stream->have > 0)
        put_bytes(stream, "\xEF\xBF\xBD", 3);
    stream->have = 0;
}

static bool may_follow(const utf8_stream *stream, unsigned char byte) {
    unsigned char lead = stream->bytes[0];
    if ((byte & 0xC0) != 0x80)
        return false;
    if (stream->have > 1)
        return true;
    /* No overlong form, no surrogate, nothing beyond U+10FFFF: all are decided by the second byte. */
    return !(lead == 0xE0 && byte < 0xA0) && !(lead == 0xED && byte > 0x9F) && !(lead == 0xF0 && byte < 0x90) &&
           !(lead == 0xF4 && byte > 0x8F);
}

static void put_byte(utf8_stream *stream, unsigned char byte) {
    if (stream->have > 0 && !may_follow(stream, byte))
        flush_broken(stream);
    if (stream->have == 0) {
        stream->want = byte < 0x80 ? 1 : byte >= 0xC2 && byte <= 0xDF ? 2 : (byte & 0xF0) == 0xE0 ? 3 : 4;
        if (byte >= 0x80 && (byte < 0xC2 || byte > 0xF4)) {
            put_bytes(stream, "\xEF\xBF\xBD", 3);
            return;
        }
    }
    stream->bytes[stream->have++ & 3] = byte; /* want is at most 4 */
    if (stream->have == stream->want) {
        put_bytes(stream, stream->bytes, (size_t)stream->have);
        stream->have = 0;
    }
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

typedef struct generate_run {
    di_cli *cli;
    const generate_options *options;
    const char *prompt;
    di_exec exec;
    di_gpt *gpt;
    di_text_data *vocabulary;
    di_gpt_decoder *decoder;
    int32_t *tokens; /* of the prompt */
    int64_t prompt_bytes, prompt_tokens;
    void *logits;
    int64_t logits_bytes;
    di_dtype dtype;
    double prompt_seconds, seconds;
    int64_t made;
} generate_run;

static di_status read_prompt(generate_run *run) {
    void *memory;
    const char *prompt = run->prompt[0] ? run->prompt : "\n";
    run->prompt_bytes = (int64_t)strlen(prompt) * (int64_t)sizeof *run->tokens; /* a symbol is a byte or more */
    di_status status = di_allocate(&run->exec, (size_t)run->prompt_bytes, "generate: prompt", &memory);
    if (status != DI_OK)
        return status;
    run->tokens = memory;
    status = di_text_encode(run->vocabulary, prompt, run->tokens, (int64_t)strlen(prompt), &run->prompt_tokens);
    if (status == DI_OK && run->prompt_tokens == 0)
        status = di_fail(DI_EINVAL, "generate: the prompt \"%s\" has no word", run->prompt);
    if (status != DI_OK && !run->prompt[0]) { /* a text of one line: begin with its first symbol */
        run->tokens[0] = 0;
        run->prompt_tokens = 1;
        status = DI_OK;
    }
    return status;
}

static di_status start(generate_run *run) {
    const generate_options *options = run->options;
    di_status status = di_cli_exec(run->cli, options->threads, &run->exec);
    run->exec.progress = NULL; /* Ctrl-C is looked at between tokens */
    if (status == DI_OK)
        status = di_checkpoint_model(&run->exec, options->checkpoint.value, run->cli->parts, run->cli->parts_count,
                                     &run->gpt, &run->vocabulary);
    if (status == DI_OK)
        status = read_prompt(run);
    if (status == DI_OK)
        status = di_gpt_decoder_create(&run->exec, run->gpt, 1, run->prompt_tokens + options->tokens, &run->decoder);
    if (status != DI_OK)
        return status;
    run->dtype = di_parameters_at(di_gpt_parameters(run->gpt), 0)->value.dtype;
    run->logits_bytes = di_gpt_vocabulary(run->gpt) * di_dtype_bytes(run->dtype);
    return di_allocate(&run->exec, (size_t)run->logits_bytes, "generate: logits", &run->logits);
}

/* With a blank before it, where it does not begin a line. */
static void put_word(utf8_stream *stream, const char *word) {
    bool ends = strcmp(word, "<eos>") == 0;
    if (!ends && !stream->at_line_start)
        put_bytes(stream, " ", 1);
    put_bytes(stream, ends ? "\n" : word, ends ? 1 : strlen(word));
}

static di_status emit(generate_run *run, utf8_stream *stream, int32_t token) {
    char text[16];
    if (di_text_symbols(run->vocabulary) == DI_BYTES) {
        put_byte(stream, (unsigned char)di_text_symbol(run->vocabulary, token));
    } else if (di_text_symbols(run->vocabulary) == DI_WORDS) {
        put_word(stream, di_text_word(run->vocabulary, token));
    } else {
        di_status status = di_text_decode(run->vocabulary, &token, 1, text, sizeof text);
        if (status != DI_OK)
            return status;
        put_bytes(stream, text, strlen(text));
    }
    if (fflush(run->cli->out) != 0)
        return di_fail(DI_EIO, "generate: cannot write the text");
    return DI_OK;
}

static di_status generate(generate_run *run) {
    const generate_options *options = run->options;
    const di_sampling sampling = {
        .temperature = options->temperature, .top_k = options->top_k, .seed = (uint64_t)options->seed};
    utf8_stream stream = {.out = run->cli->out, .at_line_start = true};
    double began = di_seconds();
    di_status status = di_gpt_decoder_push(run->decoder, run->tokens, run->prompt_tokens, run->logits);
    run->prompt_seconds = di_seconds() - began;
    for (const char *byte = run->prompt; *byte && status == DI_OK; byte++)
        put_byte(&stream, (unsigned char)*byte);
    began = di_seconds();
    while (status == DI_OK && run->made < options->tokens && !di_cli_interrupted()) {
        int32_t token = di_sample(run->logits, run->dtype, di_gpt_vocabulary(run->gpt), &sampling, (uint64_t)run->made);
        status = emit(run, &stream, token);
        run->made++;
        if (status == DI_OK && run->made < options->tokens)
            status = di_gpt_decoder_push(run->decoder, &token, 1, run->logits);
    }
    run->seconds = di_seconds() - began;
    flush_broken(&stream);
    if (!stream.at_line_start)
        fputc('\n', run->cli->out);
    return status;
}

static int run_generate(di_cli *cli, const void *given, int32_t words, char **word) {
    generate_run run = {.cli = cli, .options = given};
    run.prompt = words > 0 ? word[0] : run.options->prompt.value;
    di_status status = DI_OK;
    if (words > 0 && run.options->prompt.value[0])
        status = di_fail(DI_EINVAL, "generate: the prompt is given twice, as --prompt and as a word");
    if (status == DI_OK)
        status = start(&run);
    if (status == DI_OK)
        status = generate(&run);
    if (status == DI_OK)
        fprintf(cli->err, "%lld tokens, %.0f tokens/s (prompt: %lld tokens in %.3g s)\n", (long long)run.made,
                run.seconds > 0 ? (double)run.made / run.seconds : 0.0, (long long)run.prompt_tokens,
                run.prompt_seconds);
    di_release(&run.exec, run.logits, (size_t)run.logits_bytes);
    di_gpt_decoder_destroy(run.decoder);
    di_release(&run.exec, run.tokens, (size_t)run.prompt_bytes);
    di_text_close(run.vocabulary);
    di_gpt_destroy(run.gpt);
    if (status == DI_OK && di_cli_interrupted())
        return DI_EXIT_INTERRUPTED;
    return di_cli_report(cli, status);
}

const di_command di_command_generate = {
    .name = "generate",
    .usage = "generate --checkpoint FILE [PROMPT] [OPTION]…",
    .help = "write text with a checkpoint's model",
    .details =
        "Prints the prompt and what the model adds, as it comes; speed goes to stderr. Keys and values of what was "
        "read are kept, so a token costs one pass over one row.",
    .options = rows,
    .options_size = sizeof(generate_options),
    .min_words = 0,
    .max_words = 1,
    .check = check,
    .run = run_generate};
