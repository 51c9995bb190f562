/* A TFLite delegate that takes additions of float tensors of one shape, and really computes them.
 *
 * Options: every=N takes every Nth of them only; fail=create, prepare, invoke or crash fails there; slip=X adds X to
 * every sum, so that a result tells who computed it. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tflite_abi.h"

typedef struct {
  Delegate delegate;
  int every;
  float slip;
  char fail[16];
} Adder;

typedef struct {
  int left, right, sum;
  void *own; /* memory for a sum that stays inside the partition, which the interpreter gives none */
} Addition;

typedef struct {
  const Adder *adder;
  int count;
  Addition additions[];
} Kernel;

static bool same_shape(const Tensor *a, const Tensor *b) {
  return a->dims->size == b->dims->size && !memcmp(a->dims->data, b->dims->data, sizeof(int) * a->dims->size);
}

static bool takes(Context *context, const Node *node, const Registration *op) {
  if (op->builtin_code != OP_ADD || *(const int *)node->builtin_data != 0) return false; /* a fused activation */
  const Tensor *a = &context->tensors[node->inputs->data[0]], *b = &context->tensors[node->inputs->data[1]];
  return a->type == TYPE_FLOAT32 && b->type == TYPE_FLOAT32 && same_shape(a, b);
}

static bool holds(const IntArray *array, int value) {
  for (int i = 0; i < array->size; i++)
    if (array->data[i] == value) return true;
  return false;
}

static void *init(Context *context, const char *buffer, size_t length) {
  const Partition *partition = (const Partition *)buffer;
  int count = partition->nodes_to_replace->size;
  Kernel *kernel = calloc(1, sizeof(Kernel) + sizeof(Addition) * count);
  kernel->adder = partition->delegate->data;
  kernel->count = count;
  for (int i = 0; i < count; i++) {
    Node *node;
    Registration *op;
    context->GetNodeAndRegistration(context, partition->nodes_to_replace->data[i], &node, &op);
    Addition *addition = &kernel->additions[i];
    addition->left = node->inputs->data[0];
    addition->right = node->inputs->data[1];
    addition->sum = node->outputs->data[0];
    if (!holds(partition->output_tensors, addition->sum))
      addition->own = malloc(context->tensors[addition->sum].bytes);
  }
  return kernel;
}

static void release(Context *context, void *buffer) {
  Kernel *kernel = buffer;
  for (int i = 0; i < kernel->count; i++) free(kernel->additions[i].own);
  free(kernel);
}

static Status prepare(Context *context, Node *node) { return OK; }

static float *data_of(Context *context, const Kernel *kernel, int tensor) {
  for (int i = 0; i < kernel->count; i++)
    if (kernel->additions[i].sum == tensor && kernel->additions[i].own) return kernel->additions[i].own;
  return context->tensors[tensor].data;
}

static Status invoke(Context *context, Node *node) {
  const Kernel *kernel = node->user_data;
  if (!strcmp(kernel->adder->fail, "crash")) raise(SIGSEGV);
  if (!strcmp(kernel->adder->fail, "invoke")) {
    context->ReportError(context, "the adder was told to fail when it runs");
    return FAILED;
  }
  for (int i = 0; i < kernel->count; i++) {
    const Addition *addition = &kernel->additions[i];
    const float *left = data_of(context, kernel, addition->left), *right = data_of(context, kernel, addition->right);
    float *sum = data_of(context, kernel, addition->sum);
    size_t length = context->tensors[addition->sum].bytes / sizeof(float);
    for (size_t k = 0; k < length; k++) sum[k] = left[k] + right[k] + kernel->adder->slip;
  }
  return OK;
}

static Status apply(Context *context, Delegate *delegate) {
  const Adder *adder = delegate->data;
  if (!strcmp(adder->fail, "prepare")) {
    context->ReportError(context, "the adder was told to fail when it prepares");
    return FAILED;
  }
  IntArray *plan;
  if (context->GetExecutionPlan(context, &plan) != OK) return FAILED;
  IntArray *chosen = malloc(sizeof(IntArray) + sizeof(int) * plan->size);
  chosen->size = 0;
  for (int i = 0, seen = 0; i < plan->size; i++) {
    Node *node;
    Registration *op;
    if (context->GetNodeAndRegistration(context, plan->data[i], &node, &op) != OK) continue;
    if (takes(context, node, op) && seen++ % adder->every == 0) chosen->data[chosen->size++] = plan->data[i];
  }
  Registration kernel = {.init = init, .free = release, .prepare = prepare, .invoke = invoke, .custom_name = "Adder",
                         .version = 1};
  Status status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, chosen, delegate);
  free(chosen);
  return status;
}

static bool read_option(Adder *adder, const char *key, const char *value) {
  if (!strcmp(key, "every")) return (adder->every = atoi(value)) > 0;
  if (!strcmp(key, "slip")) return adder->slip = strtof(value, NULL), true;
  if (!strcmp(key, "fail")) return strncpy(adder->fail, value, sizeof(adder->fail) - 1), strcmp(value, "create");
  return false;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  Adder *adder = calloc(1, sizeof(Adder));
  adder->every = 1;
  for (size_t i = 0; i < count; i++)
    if (!read_option(adder, keys[i], values[i])) {
      report("the adder does not take ");
      report(keys[i]);
      free(adder);
      return NULL;
    }
  adder->delegate.data = adder;
  adder->delegate.Prepare = apply;
  return &adder->delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (delegate) free(delegate->data);
}
