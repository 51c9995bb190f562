/* Runs a TFLite model through LiteRT's C library as benchmark_model does: with its flags and its output.
 *
 * LIBRARY is the path of libLiteRt.so. Defined at compile time: PLAIN knows no files of inputs and outputs, WRONG spoils
 * the first number that it writes, OLD tells no percentiles.
 *
 * Source: litert/c of LiteRT 2.1.6 to 2.3 (the calls), tflite/tools/benchmark and stats_calculator.h (flags, output). */
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define MOST 8
#define LENGTH(array) (sizeof(array) / sizeof *(array))

typedef struct { int type; int64_t value; } Any;
typedef struct { int tag; Any value; } EnvOption;
typedef struct { uint32_t rank; int dimensions[MOST]; uint32_t strides[MOST]; } Layout;
typedef struct { int element; Layout layout; } TensorType;
typedef struct { const char *name, *value; } Flag;

static Flag flags[] = {
    {"graph", ""}, {"num_runs", "50"}, {"warmup_runs", "1"}, {"min_secs", "1"}, {"max_secs", "150"},
    {"warmup_min_secs", "0.5"}, {"num_threads", "1"},
#ifndef PLAIN
    {"input_layer", ""}, {"input_layer_shape", ""}, {"input_layer_value_files", ""}, {"output_filepath", ""},
#endif
};
static void *library;

static const char *flag(const char *name) {
  for (size_t i = 0; i < LENGTH(flags); i++)
    if (!strcmp(flags[i].name, name)) return flags[i].value;
  return "";
}

static int take(const char *word) {
  for (size_t i = 0; i < LENGTH(flags); i++) {
    size_t size = strlen(flags[i].name);
    if (!strncmp(word, "--", 2) && !strncmp(word + 2, flags[i].name, size) && word[2 + size] == '=') {
      flags[i].value = word + 3 + size;
      return 1;
    }
  }
  return 0;
}

static void fail(const char *what) {
  fprintf(stderr, "ERROR: %s\nERROR: Benchmarking failed.\n", what);
  exit(1);
}

/* Calls a function of the library, which must answer 0. */
#define CALL(name, ...)                                              \
  do {                                                               \
    int (*call)() = (int (*)())dlsym(library, "LiteRt" #name);       \
    if (!call || call(__VA_ARGS__)) fail("LiteRt" #name " refuses"); \
  } while (0)

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static double peak_mb(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024.0;
}

static void leave(void *payload) { (void)payload; }

static void *environment, *model, *compiled, *signature;
static void *inputs[MOST], *outputs[MOST];
static size_t input_count, output_count;

static void *buffer(int is_input, size_t index, size_t *size) {
  void *tensor, *needs, *made;
  TensorType type;
  memset(&type, 0, sizeof type);
  if (is_input) {
    CALL(GetSignatureInputTensorByIndex, signature, index, &tensor);
    CALL(GetCompiledModelInputBufferRequirements, compiled, (size_t)0, index, &needs);
  } else {
    CALL(GetSignatureOutputTensorByIndex, signature, index, &tensor);
    CALL(GetCompiledModelOutputBufferRequirements, compiled, (size_t)0, index, &needs);
  }
  CALL(GetRankedTensorType, tensor, &type);
  CALL(CreateManagedTensorBufferFromRequirements, environment, &type, needs, &made);
  static const int bytes[] = {[1] = 4, [2] = 4, [3] = 1, [9] = 1}; /* float32, int32, uint8, int8 */
  *size = (size_t)type.element < LENGTH(bytes) ? bytes[type.element] : 0;
  for (uint32_t i = 0; i < (type.layout.rank & 0x7F); i++) *size *= type.layout.dimensions[i];
  return made;
}

static void load(void) {
  EnvOption wanted[] = {{24, {2, 1}}, {25, {2, 3}}}; /* the CPU alone, and errors alone */
  void *options, *opaque;
  static char threads[64];
  snprintf(threads, sizeof threads, "num_threads = %s\n", flag("num_threads"));
  CALL(CreateEnvironment, 2, wanted, &environment);
  CALL(CreateModelFromFile, environment, flag("graph"), &model);
  CALL(CreateOptions, &options);
  CALL(SetOptionsHardwareAccelerators, options, 1);
  CALL(CreateOpaqueOptions, "xnnpack", threads, leave, &opaque);
  CALL(AddOpaqueOptions, options, opaque);
  CALL(CreateCompiledModel, environment, model, options, &compiled);
  CALL(GetModelSignature, model, (size_t)0, &signature);
  CALL(GetNumSignatureInputs, signature, &input_count);
  CALL(GetNumSignatureOutputs, signature, &output_count);
}

/* Tells which of the signature's inputs or outputs is the graph's so-manieth: that is the order of files. */
static size_t in_graph(int is_input, size_t position, size_t count) {
  void *subgraph, *wanted, *tensor;
  CALL(GetModelSubgraph, model, (size_t)0, &subgraph);
  if (is_input)
    CALL(GetSubgraphInput, subgraph, position, &wanted);
  else
    CALL(GetSubgraphOutput, subgraph, position, &wanted);
  for (size_t i = 0; i < count; i++) {
    if (is_input)
      CALL(GetSignatureInputTensorByIndex, signature, i, &tensor);
    else
      CALL(GetSignatureOutputTensorByIndex, signature, i, &tensor);
    if (tensor == wanted) return i;
  }
  fail("a signature without one of the graph's tensors");
  return 0;
}

/* Fills the inputs from their files, else with the number 0. */
static size_t sizes[MOST], output_sizes[MOST];

static void fill(void) {
  char files[4096];
  snprintf(files, sizeof files, "%s", flag("input_layer_value_files"));
  char *rest = files;
  for (size_t position = 0; position < input_count; position++) {
    size_t i = in_graph(1, position, input_count);
    void *address;
    inputs[i] = buffer(1, i, &sizes[i]);
    CALL(LockTensorBuffer, inputs[i], &address, 1);
    memset(address, 0, sizes[i]);
    char *pair = strsep(&rest, ","), *path = pair ? strchr(pair, ':') : NULL;
    if (path) {
      FILE *file = fopen(path + 1, "rb");
      if (!file || fread(address, 1, sizes[i], file) != sizes[i] || fgetc(file) != EOF) fail("input file of wrong size");
      fclose(file);
    }
    CALL(UnlockTensorBuffer, inputs[i]);
  }
  for (size_t i = 0; i < output_count; i++) outputs[i] = buffer(0, i, &output_sizes[i]);
}

static int ascending(const void *a, const void *b) {
  long x = *(const long *)a, y = *(const long *)b;
  return (x > y) - (x < y);
}

static void measure(const char *runs, const char *seconds, long *first, double *mean) {
  static long taken[1 << 20];
  size_t count = 0;
  double sum = 0, squares = 0, begin = now(), least = atof(seconds) * 1e6, most = atof(flag("max_secs")) * 1e6;
  printf("INFO: Running benchmark for at least %s iterations and at least %s seconds but terminate if exceeding %s seconds.\n",
         runs, seconds, flag("max_secs"));
  while ((count < (size_t)atoi(runs) || now() - begin < least) && now() - begin <= most && count < LENGTH(taken)) {
    double start = now();
    CALL(RunCompiledModel, compiled, (size_t)0, input_count, inputs, output_count, outputs);
    taken[count++] = (long)(now() - start);
  }
  for (size_t i = 0; i < count; i++) sum += taken[i], squares += (double)taken[i] * taken[i];
  *first = count ? taken[0] : 0;
  *mean = count ? sum / count : 0;
  if (!count) {
    printf("INFO: count=0\n\n");
    return;
  }
  long last = taken[count - 1];
  qsort(taken, count, sizeof *taken, ascending);
  double variance = squares / count - *mean * *mean;
  if (taken[0] == taken[count - 1])
    printf("INFO: count=%zu curr=%ld%s", count, last, count > 1 ? "(all same)" : "");
  else
    printf("INFO: count=%zu first=%ld curr=%ld min=%ld max=%ld avg=%g std=%ld", count, *first, last, taken[0],
           taken[count - 1], *mean, (long)sqrt(variance > 0 ? variance : 0));
#ifndef OLD
  printf(" p5=%ld median=%ld p95=%ld", taken[count * 5 / 100], taken[count * 50 / 100], taken[count * 95 / 100]);
#endif
  printf("\n\n");
}

static void save(void) {
  if (!*flag("output_filepath")) return;
  FILE *file = fopen(flag("output_filepath"), "wb");
  for (size_t position = 0; file && position < output_count; position++) {
    size_t i = in_graph(0, position, output_count);
    void *address;
    CALL(LockTensorBuffer, outputs[i], &address, 0);
#ifdef WRONG
    if (!position) *(float *)address += 1;
#endif
    fwrite(address, 1, output_sizes[i], file);
    CALL(UnlockTensorBuffer, outputs[i]);
  }
  if (!file || fclose(file)) fail("cannot write outputs");
}

int main(int argc, char **argv) {
  char unknown[4096] = "";
  for (int i = 1; i < argc; i++)
    if (!take(argv[i])) strcat(strcat(unknown, *unknown ? " " : ""), argv[i]);
  puts("INFO: STARTING!");
  if (*unknown) printf("WARN: Unconsumed cmdline flags: %s\n", unknown);
  printf("INFO: Graph: [%s]\n", flag("graph"));
  if (!(library = dlopen(LIBRARY, RTLD_NOW))) fail(dlerror());
  double begin = now(), warmup, mean, start_mb = peak_mb(), init_mb;
  long first, ignored;
  load();
  double init = now() - begin;
  init_mb = peak_mb() - start_mb;
  printf("INFO: Loaded model %s\nINFO: Initialized session in %gms.\n", flag("graph"), init / 1e3);
  fill();
  measure(flag("warmup_runs"), flag("warmup_min_secs"), &first, &warmup);
  measure(flag("num_runs"), flag("min_secs"), &ignored, &mean);
  printf("INFO: Inference timings in us: Init: %ld, First inference: %ld, Warmup (avg): %g, Inference (avg): %g\n",
         (long)init, first, warmup, mean);
  printf("INFO: Memory footprint delta from the start of the tool (MB): init=%g overall=%g\n", init_mb, peak_mb() - start_mb);
  save();
  return 0;
}
