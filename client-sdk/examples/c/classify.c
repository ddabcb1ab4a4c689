/* Says what a picture shows: classify MODEL PICTURE [ROUTER ca.pem]
 *
 * cc classify.c $(pkg-config --cflags --libs graft) -o classify */

#include <graft.h>

#include <stdio.h>
#include <stdlib.h>

static void must(GraftStatus status) {
    if (status != GRAFT_STATUS_OK) {
        fprintf(stderr, "%s\n", graft_last_error());
        exit(1);
    }
}

static GraftBytes read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    uint8_t *data = malloc(length > 0 ? (size_t)length : 1);
    size_t got = data ? fread(data, 1, (size_t)length, file) : 0;
    fclose(file);
    return (GraftBytes){data, got};
}

int main(int count, char **arguments) {
    if (count != 3 && count != 5) {
        fprintf(stderr, "usage: classify MODEL PICTURE [ROUTER ca.pem]\n");
        return 2;
    }
    GraftClientOptions options = {.size = sizeof options};
    const char *router = count == 5 ? arguments[3] : NULL;
    if (router) {
        options.routers = &router;
        options.router_count = 1;
        options.authority_pem = read_file(arguments[4]);
    }
    GraftClient *client;
    must(graft_client_new(&options, &client));

    GraftModelSource source = {.size = sizeof source, .path = arguments[1]};
    GraftModel *model;
    must(graft_model_open(client, &source, NULL, NULL, NULL, &model));
    must(graft_model_prepare(model, NULL));

    GraftBytes picture = read_file(arguments[2]);
    GraftInput *input;
    must(graft_input_encoded(picture, &input));
    free((void *)picture.data);
    GraftAnswer *answer;
    must(graft_model_infer(model, input, &answer));
    GraftAnswerInfo info;
    must(graft_answer_info(answer, &info));
    printf("%s in %.0f ms, %s %s\n", info.label ? info.label : "?", info.total_ms,
           info.local == GRAFT_LOCAL_NOT ? "with the server" : "here", info.why);

    graft_answer_free(answer);
    graft_input_free(input);
    graft_model_free(model);
    graft_client_free(client);
    return 0;
}
