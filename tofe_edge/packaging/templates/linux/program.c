/* @DOES@ that come on stdin as PPM, one behind the other: a picture, or the frames of a camera.
 *
 *   djpeg photo.jpg | ./@PROGRAM@ ../model/@NAME@.pte
 *   ffmpeg -v error -f v4l2 -i /dev/video0 -f image2pipe -c:v ppm - | ./@PROGRAM@ ../model/@NAME@.pte
 *   ./@PROGRAM@ ../model/@NAME@.pte --self-test ../model/@NAME@.golden
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tofe.h"

enum { @LIMITS@THREADS = @THREADS@, MAX_SIDE = 1 << 14, COMMAND_LINE = 2 };

typedef struct image {
  uint8_t* pixels;
  size_t capacity;
  uint32_t width, height;
} image;

typedef enum reading { READ, END, NO_PPM } reading;

/* The next number of a PPM header, behind blanks and comments; -1 if there is none. */
static long header_number(FILE* file) {
  int c = getc(file);
  while (c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n') {
    if (c == '#') {
      while (c != '\n' && c != EOF) c = getc(file);
    }
    c = getc(file);
  }
  if (c < '0' || c > '9') return -1;
  long value = 0;
  for (; c >= '0' && c <= '9'; c = getc(file)) {
    value = 10 * value + (c - '0');
    if (value > MAX_SIDE) return -1;
  }
  /* One blank ends the number. */
  return c == ' ' || c == '\t' || c == '\r' || c == '\n' ? value : -1;
}

static reading read_ppm(FILE* file, image* into) {
  const int first = getc(file);
  if (first == EOF) return END;
  if (first != 'P' || getc(file) != '6') return NO_PPM;
  const long width = header_number(file), height = header_number(file), most = header_number(file);
  if (width < 1 || height < 1 || most != 255) return NO_PPM;
  const size_t bytes = 3 * (size_t)width * (size_t)height;
  if (bytes > into->capacity) {
    uint8_t* larger = realloc(into->pixels, bytes);
    if (larger == NULL) return NO_PPM;
    into->pixels = larger;
    into->capacity = bytes;
  }
  into->width = (uint32_t)width;
  into->height = (uint32_t)height;
  return fread(into->pixels, 1, bytes, file) == bytes ? READ : NO_PPM;
}

static int failed(tofe_status status) {
  fprintf(stderr, "@PROGRAM@: %s\n", tofe_last_error());
  return (int)status;
}

static int @PROGRAM@_stream(tofe_model* model, FILE* file) {
  image frame = {NULL, 0, 0, 0};
  reading got;
  int result = 0;
@MEMORY@  while (result == 0 && (got = read_ppm(file, &frame)) != END) {
    if (got == NO_PPM) {
      fprintf(stderr, "@PROGRAM@: stdin is not a whole PPM (P6) with 8 bits per colour\n");
      result = TOFE_BAD_INPUT;
      break;
    }
@FRAME@    if (printf("\n") < 0 || fflush(stdout) != 0) {
      fprintf(stderr, "@PROGRAM@: stdout cannot be written (%s)\n", strerror(errno));
      result = TOFE_RUNTIME_ERROR;
    }
  }
@RELEASE@  free(frame.pixels);
  return result;
}

int main(int argc, char** argv) {
  const int tests = argc == 4 && strcmp(argv[2], "--self-test") == 0;
  if (argc != 2 && !tests) {
    fprintf(stderr, "usage: @PROGRAM@ MODEL.pte [--self-test FOLDER.golden] < IMAGES.ppm\n");
    return COMMAND_LINE;
  }
  tofe_model* model = NULL;
  tofe_status status = tofe_open(argv[1], NULL, NULL, THREADS, &model);
  if (status != TOFE_OK) return failed(status);
  int result = 0;
  if (!tests) {
    result = @PROGRAM@_stream(model, stdin);
  } else if ((status = tofe_self_test(model, argv[3])) == TOFE_OK) {
    puts("self-test passed");
  } else {
    result = failed(status);
  }
  tofe_close(model);
  return result;
}
