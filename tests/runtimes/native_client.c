/* What an application does with libtofe, and what it must not be able to break. Prints what it found, one line a fact;
 * a fact that is wrong ends it. Two threads classify with two models, and two more with one. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tofe.h"

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, tofe_last_error());     \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

enum { WIDTH = 97, HEIGHT = 81, GAP = 5, TOP = 5, ROUNDS = 8, THREADS = 2 };

static uint8_t pixels[HEIGHT][3 * WIDTH + GAP];
static tofe_prediction expected[TOP];

static void paint(void) {
  for (size_t y = 0; y < HEIGHT; ++y) {
    for (size_t x = 0; x < sizeof pixels[0]; ++x) pixels[y][x] = (uint8_t)(x * 7 + y * y * 3 + x * y);
  }
}

static void classify(tofe_model* model, tofe_prediction* best) {
  uint32_t count = TOP;
  CHECK(tofe_classify_rgb(model, &pixels[0][0], WIDTH, HEIGHT, sizeof pixels[0], best, &count) == TOFE_OK);
  CHECK(count == TOP);
}

static void* keep_classifying(void* model) {
  for (int i = 0; i < ROUNDS; ++i) {
    tofe_prediction best[TOP];
    classify(model, best);
    CHECK(memcmp(best, expected, sizeof best) == 0);
  }
  return NULL;
}

static void classify_at_once(tofe_model* first, tofe_model* second) {
  pthread_t threads[THREADS];
  CHECK(pthread_create(&threads[0], NULL, keep_classifying, first) == 0);
  CHECK(pthread_create(&threads[1], NULL, keep_classifying, second) == 0);
  for (int i = 0; i < THREADS; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
}

static tofe_status refused(tofe_model* model, const uint8_t* from, uint32_t width, uint32_t height, size_t stride,
                           tofe_prediction* best, uint32_t count) {
  const tofe_status status = tofe_classify_rgb(model, from, width, height, stride, best, &count);
  CHECK(count == 0);
  return status;
}

static void refuse_wrong_calls(tofe_model* model, const char* path) {
  tofe_prediction best[1];
  tofe_model* other = model;
  CHECK(tofe_open(NULL, NULL, NULL, 1, &other) == TOFE_WRONG_CALL && other == NULL);
  CHECK(tofe_open(path, NULL, NULL, 0, &other) == TOFE_WRONG_CALL);
  CHECK(tofe_open(path, NULL, NULL, 1, NULL) == TOFE_WRONG_CALL);
  CHECK(tofe_open(path, NULL, "backward", 1, &other) == TOFE_WRONG_CALL && strstr(tofe_last_error(), "backward") != NULL);
  CHECK(tofe_open(path, NULL, NULL, 2, &other) == TOFE_WRONG_CALL && strstr(tofe_last_error(), "threads") != NULL);
  CHECK(tofe_open("/nowhere/net.pte", NULL, NULL, 1, &other) == TOFE_BAD_FILE && other == NULL);
  CHECK(refused(NULL, &pixels[0][0], 9, 9, 27, best, 1) == TOFE_WRONG_CALL);
  CHECK(refused(model, NULL, 9, 9, 27, best, 1) == TOFE_WRONG_CALL);
  CHECK(refused(model, &pixels[0][0], 0, 9, 27, best, 1) == TOFE_WRONG_CALL);
  CHECK(refused(model, &pixels[0][0], 9, 9, 26, best, 1) == TOFE_WRONG_CALL);
  CHECK(refused(model, &pixels[0][0], 9, 9, 27, NULL, 1) == TOFE_WRONG_CALL);
  CHECK(refused(model, &pixels[0][0], 9, 9, 27, best, 0) == TOFE_WRONG_CALL);
  CHECK(refused(model, &pixels[0][0], UINT32_MAX, UINT32_MAX, SIZE_MAX, best, 1) == TOFE_BAD_INPUT);
  CHECK(tofe_classify_rgb(model, &pixels[0][0], 9, 9, 27, best, NULL) == TOFE_WRONG_CALL);
  CHECK(tofe_self_test(model, NULL) == TOFE_WRONG_CALL);
  CHECK(tofe_self_test(model, "/nowhere") == TOFE_BAD_FILE);
  CHECK(strchr(tofe_last_error(), '\n') == NULL);
  CHECK(tofe_label(model, tofe_class_count(model)) == NULL && tofe_label(NULL, 0) == NULL);
  CHECK(tofe_class_id(NULL, 0) == NULL && tofe_class_count(NULL) == 0);
  CHECK(tofe_method(NULL) == NULL && tofe_meets_deadline(NULL));
  CHECK(tofe_open_within(path, NULL, 0, 1, &other) == TOFE_WRONG_CALL && other == NULL);
  tofe_close(NULL);
}

/* Every method is loaded; the cheapest runs first, and in the end the most expensive one or still the cheapest. */
static void keep_a_deadline(const char* path, const char* golden, double deadline_ms, int keeps) {
  tofe_model* model = NULL;
  tofe_prediction best[TOP];
  CHECK(tofe_open_within(path, NULL, deadline_ms, 1, &model) == TOFE_OK);
  const char* const first = tofe_method(model);
  CHECK(tofe_meets_deadline(model) && strcmp(first, "forward") != 0);
  for (int i = 0; i < 60; ++i) classify(model, best);
  CHECK(tofe_meets_deadline(model) == keeps);
  CHECK((strcmp(tofe_method(model), first) != 0) == keeps);
  printf("%s\n", tofe_method(model));
  CHECK(tofe_self_test(model, golden) == TOFE_OK);
  tofe_close(model);
}

static void choose_alone(void) {
  const char* const methods[] = {"large", "small"};
  const double gmacs[] = {2, 1}, equal[] = {1, 1};
  tofe_deadline* deadline = NULL;
  CHECK(tofe_deadline_create(methods, gmacs, 2, 0, &deadline) == TOFE_WRONG_CALL && deadline == NULL);
  CHECK(tofe_deadline_create(methods, equal, 2, 33, &deadline) == TOFE_WRONG_CALL);
  CHECK(tofe_deadline_create(methods, gmacs, 0, 33, &deadline) == TOFE_WRONG_CALL);
  CHECK(tofe_deadline_create(NULL, gmacs, 2, 33, &deadline) == TOFE_WRONG_CALL);
  CHECK(tofe_deadline_create(methods, NULL, 2, 33, &deadline) == TOFE_WRONG_CALL);
  CHECK(tofe_deadline_create(methods, gmacs, 2, 33, NULL) == TOFE_WRONG_CALL);
  CHECK(tofe_deadline_create(methods, gmacs, 2, 33, &deadline) == TOFE_OK);
  CHECK(strcmp(tofe_deadline_method(deadline), "small") == 0);
  CHECK(tofe_deadline_observe(deadline, 0) == TOFE_WRONG_CALL);
  for (int i = 0; i < 60; ++i) CHECK(tofe_deadline_observe(deadline, 10) == TOFE_OK);
  CHECK(strcmp(tofe_deadline_method(deadline), "large") == 0 && tofe_deadline_met(deadline));
  for (int i = 0; i < 60; ++i) CHECK(tofe_deadline_observe(deadline, 100) == TOFE_OK);
  CHECK(strcmp(tofe_deadline_method(deadline), "small") == 0 && !tofe_deadline_met(deadline));
  tofe_deadline_destroy(deadline);
  tofe_deadline_destroy(NULL);
  CHECK(tofe_deadline_method(NULL) == NULL && tofe_deadline_met(NULL));
  CHECK(tofe_deadline_observe(NULL, 1) == TOFE_WRONG_CALL);
}

int main(int argc, char** argv) {
  tofe_model* model = NULL;
  tofe_model* second = NULL;
  if (argc != 4) return 2;
  CHECK(strcmp(tofe_last_error(), "") == 0);
  CHECK(tofe_api_version() == TOFE_API_VERSION);
  if (tofe_open(argv[1], NULL, argv[3], 1, &model) != TOFE_OK) {
    printf("%s\n", tofe_last_error());
    return 3;
  }
  paint();
  classify(model, expected);
  printf("%u\n", tofe_class_count(model));
  for (int i = 0; i < TOP; ++i) {
    printf("%u %.6f %s %s\n", expected[i].index, (double)expected[i].probability,
           tofe_class_id(model, expected[i].index), tofe_label(model, expected[i].index));
  }
  refuse_wrong_calls(model, argv[1]);
  CHECK(tofe_open(argv[1], NULL, argv[3], 1, &second) == TOFE_OK);
  classify_at_once(model, second);
  classify_at_once(model, model);
  tofe_close(second);
  CHECK(tofe_self_test(model, argv[2]) == TOFE_OK);
  tofe_close(model);
  /* The last one is closed: another number of threads may be asked for. */
  CHECK(tofe_open(argv[1], NULL, argv[3], 2, &model) == TOFE_OK);
  classify(model, expected);
  tofe_close(model);
  keep_a_deadline(argv[1], argv[2], 1e9, 1);
  keep_a_deadline(argv[1], argv[2], 1e-6, 0);
  choose_alone();
  return 0;
}
