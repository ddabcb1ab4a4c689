/* An app in C: what it is told is in its environment. Prints what happened, ends with 0 if all is as it must be. */

#include <graft.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "not so: %s (%s)\n", what, graft_last_error());
        exit(1);
    }
}

static GraftBytes whole(const char *path) {
    FILE *file = fopen(path, "rb");
    check(file != NULL, path);
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    uint8_t *data = malloc((size_t)length);
    check(fread(data, 1, (size_t)length, file) == (size_t)length, path);
    fclose(file);
    return (GraftBytes){data, (size_t)length};
}

static void progress(void *context, uint32_t done, uint32_t all) {
    check(done <= all, "progress");
    ++*(int *)context;
}

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GraftAnswer *answer;
    int calls;
} Waiting;

static void answered(void *context, GraftStatus status, const char *why, GraftAnswer *answer) {
    Waiting *waiting = context;
    check(status == GRAFT_STATUS_OK, why);
    pthread_mutex_lock(&waiting->lock);
    waiting->answer = answer;
    waiting->calls++;
    pthread_cond_signal(&waiting->changed);
    pthread_mutex_unlock(&waiting->lock);
}

int main(void) {
    GraftBytes pem = whole(getenv("GRAFT_AUTHORITY"));
    const char *routers[] = {getenv("GRAFT_ROUTER")};
    GraftClientOptions options = {.size = sizeof options, .routers = routers, .router_count = 1};
    GraftClient *client = NULL;
    check(graft_client_new(&options, &client) == GRAFT_STATUS_OPTIONS && client == NULL, "no authority");
    check(strstr(graft_last_error(), "ca.pem") != NULL, "words for it");
    options.authority_pem = pem;
    check(graft_client_new(&options, &client) == GRAFT_STATUS_OK, "a client");

    GraftModelSource source = {.size = sizeof source, .path = "no-such.onnx"};
    GraftModel *model = NULL;
    check(graft_model_open(client, &source, NULL, NULL, NULL, &model) == GRAFT_STATUS_MODEL, "no model");
    source.path = getenv("GRAFT_MODEL");
    GraftModelOptions wanted = {.size = sizeof wanted, .slo_ms = 5000, .fixed_partition_point = true, .partition_point = 2};
    int steps = 0;
    check(graft_model_open(client, &source, &wanted, progress, &steps, &model) == GRAFT_STATUS_OK, "a model");
    check(steps > 0, "it was measured");
    graft_client_free(client);

    bool reached = false;
    check(graft_model_prepare(model, &reached) == GRAFT_STATUS_OK && reached, "a router");
    check(strcmp(graft_model_name(model), "efficientnet-lite0") == 0, "its name");
    GraftTensor takes;
    check(graft_model_input_count(model) == 1, "inputs");
    check(graft_model_input(model, 0, &takes) == GRAFT_STATUS_OK && takes.rank == 3 && takes.shape[0] == 3, "an input");
    check(graft_model_input(model, 1, &takes) == GRAFT_STATUS_OPTIONS, "no second input");

    GraftInput *input = NULL;
    check(graft_input_encoded(whole(getenv("GRAFT_PICTURE")), &input) == GRAFT_STATUS_OK, "a picture");
    GraftAnswer *answer = NULL;
    check(graft_model_infer(model, input, &answer) == GRAFT_STATUS_OK, "an answer");
    GraftAnswerInfo info;
    check(graft_answer_info(answer, &info) == GRAFT_STATUS_OK, "its account");
    check(info.label != NULL && strcmp(info.label, "espresso") == 0, "its label");
    check(info.local == GRAFT_LOCAL_NOT && info.partition_point == 2 && info.in_time, info.why);
    check(info.server_ms > 0 && info.request_id != NULL, "the server's part");
    GraftTensor scores;
    check(graft_answer_output_count(answer) == 1 && graft_answer_output(answer, 0, &scores) == GRAFT_STATUS_OK, "scores");
    check(scores.element_type == GRAFT_ELEMENT_TYPE_F32 && scores.length == 4 * scores.shape[0], "floats");
    printf("%s in %.0f ms, of which the server %.0f\n", info.label, info.total_ms, info.server_ms);

    Waiting waiting = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0};
    check(graft_model_infer_async(model, input, answered, &waiting) == GRAFT_STATUS_OK, "begun");
    graft_input_free(input);
    pthread_mutex_lock(&waiting.lock);
    while (waiting.calls == 0) pthread_cond_wait(&waiting.changed, &waiting.lock);
    pthread_mutex_unlock(&waiting.lock);
    GraftTensor again;
    check(graft_answer_output(waiting.answer, 0, &again) == GRAFT_STATUS_OK, "the same");
    check(again.length == scores.length, "of one size");
    graft_answer_free(waiting.answer);
    graft_answer_free(answer);

    float *zeros = calloc(3 * 224 * 224, sizeof(float));
    GraftBytes tensor = {(uint8_t *)zeros, 3 * 224 * 224 * sizeof(float)};
    check(graft_input_tensors(model, &tensor, 1, &input) == GRAFT_STATUS_OK, "a tensor");
    free(zeros);
    check(graft_model_infer(model, input, &answer) == GRAFT_STATUS_OK, "an answer to it");
    graft_answer_free(answer);
    graft_input_free(input);
    tensor.length -= 4;
    check(graft_input_tensors(model, &tensor, 1, &input) == GRAFT_STATUS_INPUT, "too short");
    tensor.length = 7;
    tensor.data = NULL;
    check(graft_input_tensors(model, &tensor, 1, &input) == GRAFT_STATUS_INPUT, "nowhere");
    uint8_t grey[2 * 2 * 4] = {0};
    GraftPixels pixels = {.size = sizeof pixels, .bytes = {grey, sizeof grey}, .width = 2, .height = 2, .format = GRAFT_PIXEL_FORMAT_RGBA};
    check(graft_input_pixels(&pixels, &input) == GRAFT_STATUS_OK, "pixels");
    graft_input_free(input);
    pixels.format = 9;
    check(graft_input_pixels(&pixels, &input) == GRAFT_STATUS_OPTIONS, "no such format");
    pixels.format = GRAFT_PIXEL_FORMAT_BGRA;
    pixels.width = 3;
    check(graft_input_pixels(&pixels, &input) == GRAFT_STATUS_INPUT, "too few");
    check(graft_model_infer(NULL, input, &answer) == GRAFT_STATUS_OPTIONS, "null");
    graft_model_free(model);
    graft_model_free(NULL);
    return 0;
}
