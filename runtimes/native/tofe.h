/* libtofe: classify images, or make vectors of them, with a model of tofe-edge. Plain C (C99), no exceptions, no exits; one
 * handle per model.
 *
 *   tofe_model* model = NULL;
 *   tofe_prediction best[5];
 *   uint32_t count = 5;
 *   if (tofe_open("net.pte", NULL, NULL, 4, &model) != TOFE_OK ||
 *       tofe_classify_rgb(model, pixels, width, height, 3 * (size_t)width, best, &count) != TOFE_OK) {
 *     fprintf(stderr, "%s\n", tofe_last_error());
 *   }
 *   tofe_close(model);
 *
 * Threads. Every function may be called from any thread at any time, but that the call which frees a handle must be the last one with
 * it. Calls with one handle wait for each other; different handles work side by side. The worker threads are one pool per
 * process, so all models that are open at the same time have the same number of them.
 *
 * The process. Nothing ends it, and nothing is printed but what ExecuTorch's CPU detection writes to stderr when the first
 * model is opened. ExecuTorch's settings of a process are taken over: its log messages become part of the text of errors, and
 * its thread pool gets the size that is asked for. A process that uses ExecuTorch on its own as well shares both.
 *
 * Files. A model is mapped as long as it is open. Replace it by renaming another file onto it: what is written into the
 * file itself changes what the model computes, and if the file is cut short the system ends the process.
 */
#ifndef TOFE_H
#define TOFE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when functions are added; what is here stays as it is. */
#define TOFE_API_VERSION 3

typedef enum tofe_status {
  TOFE_OK = 0,
  TOFE_WRONG_CALL = 2,      /* an argument, or a method that the model does not have */
  TOFE_BAD_FILE = 3,        /* model, manifest or golden vectors: missing, damaged, or not of one another */
  TOFE_BAD_INPUT = 4,       /* an image that is too small or too narrow */
  TOFE_RUNTIME_ERROR = 5,   /* ExecuTorch failed, memory is used up, or a value is infinite or not a number */
  TOFE_SELF_TEST_FAILED = 6 /* the model computes something else here than it should */
} tofe_status;

typedef struct tofe_model tofe_model;

typedef struct tofe_prediction {
  uint32_t index; /* of the class; its name is tofe_label(model, index) */
  float probability;
} tofe_prediction;

/* TOFE_API_VERSION of the library. */
uint32_t tofe_api_version(void);

/* Checks a model file against its manifest and loads one method of it.
 *
 * manifest_path: NULL for NAME.json beside NAME.pte.
 * method:        one of the model's budgets; NULL for the default one.
 * threads:       1 to 1024; refused if an open model has another number.
 * model:         takes the handle, or NULL on failure.
 */
tofe_status tofe_open(const char* model_path, const char* manifest_path, const char* method, uint32_t threads,
                      tofe_model** model);

/* Likewise, but loads every method of the model, and lets tofe_classify_rgb choose one of them, call by call: the largest whose
 * 90th percentile keeps the deadline. It times itself, without the wait for other calls with the handle. */
tofe_status tofe_open_within(const char* model_path, const char* manifest_path, double deadline_ms, uint32_t threads,
                             tofe_model** model);

/* The method that the next tofe_classify_rgb runs; it lives as long as the handle. NULL for NULL. */
const char* tofe_method(tofe_model* model);

/* 0 if not even the present method keeps the deadline, measured or predicted; else 1, without a deadline too. */
int tofe_meets_deadline(tofe_model* model);

/* Frees a handle; NULL is allowed. */
void tofe_close(tofe_model* model);

/* Classifies an image of any size: resized, cropped and normalised as the manifest says. The model has to give logits.
 *
 * pixels:  R, G, B, one byte each; the first row first.
 * stride:  bytes from the beginning of a row to that of the next, at least 3 * width.
 * results: takes the likeliest classes, best first.
 * count:   in: places in `results`, at least 1; out: how many were filled, fewer if the model has fewer classes, 0 on
 *          failure.
 */
tofe_status tofe_classify_rgb(tofe_model* model, const uint8_t* pixels, uint32_t width, uint32_t height, size_t stride,
                              tofe_prediction* results, uint32_t* count);

/* What the model gives: "logits", "embedding" or "features"; NULL for NULL. Since version 3. */
const char* tofe_output(const tofe_model* model);

/* Numbers that it gives for one image: one per class, D of an embedding, N * D of features, the patches of which stand in
 * rows from the top left; and how many of them belong to one vector: all, or D. 0 for NULL. Since version 3. */
size_t tofe_value_count(const tofe_model* model);
size_t tofe_vector_size(const tofe_model* model);

/* As tofe_classify_rgb for every kind of model: fills `values`, which has `count` = tofe_value_count(model) places, with what the
 * model gives. Since version 3. */
tofe_status tofe_values_rgb(tofe_model* model, const uint8_t* pixels, uint32_t width, uint32_t height, size_t stride,
                            float* values, size_t count);

/* Replays the golden vectors of the handle's methods from a folder NAME.golden. */
tofe_status tofe_self_test(tofe_model* model, const char* golden_folder);

/* Number of classes; 0 for NULL and for a model that gives no logits. */
uint32_t tofe_class_count(const tofe_model* model);

/* Name of a class in UTF-8, and its id in the data set; NULL if there is no such class. They live as long as the
 * handle. */
const char* tofe_label(const tofe_model* model, uint32_t index);
const char* tofe_class_id(const tofe_model* model, uint32_t index);

/* The same choice for a program that runs and times its models by other means. */
typedef struct tofe_deadline tofe_deadline;

/* methods, gmacs: what there is to choose from, in any order. Only ratios of the costs count; all must differ.
 * deadline: takes the handle, or NULL on failure. */
tofe_status tofe_deadline_create(const char* const* methods, const double* gmacs, uint32_t count, double deadline_ms,
                                 tofe_deadline** deadline);

/* The method to run next; it lives as long as the handle. NULL for NULL. */
const char* tofe_deadline_method(tofe_deadline* deadline);

/* Reports the time that one run of this method took. */
tofe_status tofe_deadline_observe(tofe_deadline* deadline, double latency_ms);

/* As tofe_meets_deadline. */
int tofe_deadline_met(tofe_deadline* deadline);

/* Frees a handle; NULL is allowed. */
void tofe_deadline_destroy(tofe_deadline* deadline);

/* What went wrong in the last call in this thread that failed, one line; "" if none has. It lives until the next call
 * in this thread that fails. */
const char* tofe_last_error(void);

#ifdef __cplusplus
}
#endif

#endif
