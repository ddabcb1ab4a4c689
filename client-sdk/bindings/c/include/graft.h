/*
 * Graft in an app: docs/apps.md.
 *
 * Whatever *_new, *_open, graft_input_* and graft_model_infer give belongs to the caller, until its *_free. Pointers that are read of
 * such a thing are good until then. Models, clients and inputs may be used from several threads at a time, and are freed when no call
 * with them runs any more; what graft_model_infer_async began goes on. Answers are used by one thread at a time. Structures begin with
 * their size, so that later versions can have more fields: make them of zeros, set size, then what is wanted.
 */

#ifndef GRAFT_H
#define GRAFT_H

/* Written by client-sdk/bindings/generate.sh; not to be edited. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * How a call ended.
 */
typedef enum {
  /**
   * Well.
   */
  GRAFT_STATUS_OK = 0,
  /**
   * The client, or what was asked of it, can't be had with these options.
   */
  GRAFT_STATUS_OPTIONS = 1,
  /**
   * The model can't be read.
   */
  GRAFT_STATUS_MODEL = 2,
  /**
   * The device can't run it.
   */
  GRAFT_STATUS_DEVICE = 3,
  /**
   * The input does not fit the model.
   */
  GRAFT_STATUS_INPUT = 4,
  /**
   * Something failed that should not.
   */
  GRAFT_STATUS_INTERNAL = 5,
} GraftStatus;

/**
 * Type of a tensor's elements.
 */
typedef enum {
  /**
   * 32-bit IEEE float.
   */
  GRAFT_ELEMENT_TYPE_F32 = 0,
  /**
   * 16-bit IEEE float.
   */
  GRAFT_ELEMENT_TYPE_F16 = 1,
  /**
   * 32-bit signed integer.
   */
  GRAFT_ELEMENT_TYPE_I32 = 2,
  /**
   * 64-bit signed integer.
   */
  GRAFT_ELEMENT_TYPE_I64 = 3,
  /**
   * 8-bit signed integer.
   */
  GRAFT_ELEMENT_TYPE_I8 = 4,
  /**
   * 8-bit unsigned integer.
   */
  GRAFT_ELEMENT_TYPE_U8 = 5,
  /**
   * One byte: 0 or 1.
   */
  GRAFT_ELEMENT_TYPE_BOOL = 6,
  /**
   * 64-bit IEEE float.
   */
  GRAFT_ELEMENT_TYPE_F64 = 7,
} GraftElementType;

/**
 * Why all layers ran on the device.
 */
typedef enum {
  /**
   * They did not: the rest ran at the server.
   */
  GRAFT_LOCAL_NOT = 0,
  /**
   * It was expected to be faster so.
   */
  GRAFT_LOCAL_FASTER_ALONE = 1,
  /**
   * The server did not say what it needs for this model.
   */
  GRAFT_LOCAL_NO_PLAN = 2,
  /**
   * No router can be reached.
   */
  GRAFT_LOCAL_UNREACHABLE = 3,
  /**
   * The router did not answer lately, and not yet again.
   */
  GRAFT_LOCAL_IN_DOUBT = 4,
  /**
   * Head and network would leave the server nothing.
   */
  GRAFT_LOCAL_NO_TIME = 5,
  /**
   * The server refused.
   */
  GRAFT_LOCAL_REFUSED = 6,
  /**
   * The connection failed, or no answer came in time.
   */
  GRAFT_LOCAL_NO_ANSWER = 7,
} GraftLocal;

/**
 * The order of a pixel's bytes.
 */
typedef enum {
  /**
   * Red, green, blue.
   */
  GRAFT_PIXEL_FORMAT_RGB = 0,
  /**
   * Red, green, blue, and one that is not looked at.
   */
  GRAFT_PIXEL_FORMAT_RGBA = 1,
  /**
   * Blue, green, red, and one that is not looked at.
   */
  GRAFT_PIXEL_FORMAT_BGRA = 2,
} GraftPixelFormat;

/**
 * What counts where there is time to spare.
 */
typedef enum {
  /**
   * What is cheaper for the server, where the device and its next inference don't feel it.
   */
  GRAFT_PREFER_SERVER = 0,
  /**
   * The answer as soon as can be.
   */
  GRAFT_PREFER_SPEED = 1,
  /**
   * What is expected to take less of the battery.
   */
  GRAFT_PREFER_BATTERY = 2,
  /**
   * Fewer bytes on the way.
   */
  GRAFT_PREFER_BYTES = 3,
} GraftPrefer;

/**
 * An answer.
 */
typedef struct GraftAnswer GraftAnswer;

/**
 * What an app holds: its way to the routers, and this device.
 */
typedef struct GraftClient GraftClient;

/**
 * What a model is run on; it may be used several times.
 */
typedef struct GraftInput GraftInput;

/**
 * A model on this device, with a router to share its layers with.
 */
typedef struct GraftModel GraftModel;

/**
 * Bytes that belong to the caller.
 */
typedef struct {
  /**
   * Where they begin.
   */
  const uint8_t *data;
  /**
   * How many they are.
   */
  size_t length;
} GraftBytes;

/**
 * How a client is made. Zeros are the defaults.
 */
typedef struct {
  /**
   * Bytes of this structure.
   */
  size_t size;
  /**
   * Routers, `host:port` (UDP), of which one is asked; none: all layers run on the device.
   */
  const char *const *routers;
  /**
   * How many they are.
   */
  size_t router_count;
  /**
   * The certificate of the authority that issued the routers' (PEM).
   */
  GraftBytes authority_pem;
  /**
   * The name that routers' certificates must carry; null: the one that all of Graft's carry.
   */
  const char *server_name;
  /**
   * The token that says who asks, where routers want to know; or null.
   */
  const char *token;
  /**
   * A folder of the app's, in which it is kept what layers take here; or null.
   */
  const char *cache;
  /**
   * Cores that layers run on; none: one is chosen.
   */
  const uint32_t *cores;
  /**
   * How many they are.
   */
  size_t core_count;
} GraftClientOptions;

/**
 * A model that an app brings: a path, or what files hold.
 */
typedef struct {
  /**
   * Bytes of this structure.
   */
  size_t size;
  /**
   * An ONNX file, a `model.toml`, or a folder with one; null: it is in memory.
   */
  const char *path;
  /**
   * The ONNX file.
   */
  GraftBytes network;
  /**
   * The manifest (`model.toml`), or null.
   */
  const char *manifest;
  /**
   * Labels of the first output's classes, one a line, or null.
   */
  const char *labels;
  /**
   * The file that the manifest names as features, if it does.
   */
  GraftBytes features;
} GraftModelSource;

/**
 * How a model is used. Zeros are the defaults.
 */
typedef struct {
  /**
   * Bytes of this structure.
   */
  size_t size;
  /**
   * From the input to the answer, in milliseconds; 0: a second.
   */
  double slo_ms;
  /**
   * What counts where there is time to spare: one of `GraftPrefer`.
   */
  uint32_t prefer;
  /**
   * Bytes that an inference may send at most; 0: as many as it takes.
   */
  uint64_t most_bytes;
  /**
   * The model's inputs never leave the device as they are. (Much of a picture can be told from what its first layers make of it; who
   * wants less told fixes a later partition point.)
   */
  bool keep_inputs;
  /**
   * Send 16-bit floats, half the bytes, where the manifest allows it.
   */
  bool half_precision;
  /**
   * Hand over at `partition_point`, always.
   */
  bool fixed_partition_point;
  /**
   * The cut point at which it is handed over, if that is fixed.
   */
  uint16_t partition_point;
  /**
   * Send tensors as they are, even where the model's features say how they travel in fewer bytes.
   */
  bool exact;
} GraftModelOptions;

/**
 * Hears that so many steps of so many are done, on a thread of the library's.
 */
typedef void (*GraftProgress)(void *context, uint32_t done, uint32_t all);

/**
 * A tensor, or what one must be.
 */
typedef struct {
  /**
   * Its name.
   */
  const char *name;
  /**
   * Its shape, without the batch dimension.
   */
  const uint64_t *shape;
  /**
   * Number of its dimensions.
   */
  size_t rank;
  /**
   * Type of its elements.
   */
  GraftElementType element_type;
  /**
   * Its elements, little-endian; null where there are none yet.
   */
  const uint8_t *data;
  /**
   * Its bytes.
   */
  size_t length;
} GraftTensor;

/**
 * A picture that is not encoded.
 */
typedef struct {
  /**
   * Bytes of this structure.
   */
  size_t size;
  /**
   * The picture's bytes, row by row.
   */
  GraftBytes bytes;
  /**
   * Columns.
   */
  uint32_t width;
  /**
   * Rows.
   */
  uint32_t height;
  /**
   * Bytes from one row to the next; 0: rows follow one another.
   */
  uint32_t stride;
  /**
   * Order of each pixel's bytes: one of `GraftPixelFormat`.
   */
  uint32_t format;
} GraftPixels;

/**
 * Takes the answer of an inference, on a thread of the library's: `answer` belongs to it, and is null unless `status` is `GRAFT_STATUS_OK`;
 * `why` says what failed, and is good until it returns.
 */
typedef void (*GraftAnswered)(void *context,
                              GraftStatus status,
                              const char *why,
                              GraftAnswer *answer);

/**
 * What is known of an answer beside its tensors.
 */
typedef struct {
  /**
   * The label of the first output's largest number; null where the model has no labels.
   */
  const char *label;
  /**
   * Why all layers ran on the device.
   */
  GraftLocal local;
  /**
   * The same in words; empty where there are none.
   */
  const char *why;
  /**
   * The id by which the router remembers the request; null where none was sent.
   */
  const char *request_id;
  /**
   * Where it was handed over; the last cut point: all layers ran on the device by choice.
   */
  uint16_t partition_point;
  /**
   * It was there within the time asked for.
   */
  bool in_time;
  /**
   * Bytes of the tensors that were sent; 0: none were.
   */
  uint64_t bytes_sent;
  /**
   * From the picture to the model's input, in milliseconds.
   */
  double picture_ms;
  /**
   * Layers on the device, in milliseconds.
   */
  double device_ms;
  /**
   * On the way, both ways, in milliseconds.
   */
  double network_ms;
  /**
   * At the server, in milliseconds.
   */
  double server_ms;
  /**
   * All of it, in milliseconds.
   */
  double total_ms;
} GraftAnswerInfo;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What the last call on this thread that failed has to say. Good until the next call that fails on this thread.
 */
const char *graft_last_error(void);

/**
 * The library's version.
 */
const char *graft_version(void);

/**
 * Makes a client; nothing is sent yet, and no network is needed.
 *
 * # Safety
 *
 * `options` is null or points to a structure as described, `client` to where the client is written.
 */
GraftStatus graft_client_new(const GraftClientOptions *options, GraftClient **client);

/**
 * The device is in another network (Wi-Fi, mobile, a VPN): what is under way moves there. To be called when the system says so.
 *
 * # Safety
 *
 * `client` is a client.
 */
GraftStatus graft_client_network_changed(const GraftClient *client);

/**
 * Frees a client. Models that were opened with it go on.
 *
 * # Safety
 *
 * `client` is null or was given by `graft_client_new`, and not freed.
 */
void graft_client_free(GraftClient *client);

/**
 * Opens a model on this device; blocks. What its layers take here is measured, for about a second, unless the cache knows it.
 *
 * # Safety
 *
 * `client` is a client; `source` and, unless it is null, `options` point to structures as described, `model` to where the model is
 * written. `progress` may be called on another thread until this returns.
 */
GraftStatus graft_model_open(const GraftClient *client,
                             const GraftModelSource *source,
                             const GraftModelOptions *options,
                             GraftProgress progress,
                             void *context,
                             GraftModel **model);

/**
 * Frees a model. Inferences that are under way go on.
 *
 * # Safety
 *
 * `model` is null or was given by `graft_model_open`, and not freed.
 */
void graft_model_free(GraftModel *model);

/**
 * A model's name, of the manifest.
 *
 * # Safety
 *
 * `model` is a model.
 */
const char *graft_model_name(const GraftModel *model);

/**
 * A model's identity: a hash of its content, the same at the server.
 *
 * # Safety
 *
 * `model` is a model.
 */
const char *graft_model_identity(const GraftModel *model);

/**
 * Number of a model's inputs.
 *
 * # Safety
 *
 * `model` is a model.
 */
size_t graft_model_input_count(const GraftModel *model);

/**
 * Number of a model's outputs.
 *
 * # Safety
 *
 * `model` is a model.
 */
size_t graft_model_output_count(const GraftModel *model);

/**
 * What a model takes: its input of that number. `data` is null.
 *
 * # Safety
 *
 * `model` is a model, `info` points to where it is written.
 */
GraftStatus graft_model_input(const GraftModel *model, size_t number, GraftTensor *info);

/**
 * What a model gives: its output of that number. `data` is null.
 *
 * # Safety
 *
 * `model` is a model, `info` points to where it is written.
 */
GraftStatus graft_model_output(const GraftModel *model, size_t number, GraftTensor *info);

/**
 * Tensors for a model, in the order of its inputs: elements of their types, little-endian. They are copied.
 *
 * # Safety
 *
 * `model` is a model, `tensors` points to `count` of them, `input` to where the input is written.
 */
GraftStatus graft_input_tensors(const GraftModel *model,
                                const GraftBytes *tensors,
                                size_t count,
                                GraftInput **input);

/**
 * A PNG or JPEG. It is copied, and decoded with the inference.
 *
 * # Safety
 *
 * `picture` describes bytes that are there, `input` points to where the input is written.
 */
GraftStatus graft_input_encoded(GraftBytes picture, GraftInput **input);

/**
 * A picture that is not encoded. It is copied.
 *
 * # Safety
 *
 * `pixels` points to a structure as described, `input` to where the input is written.
 */
GraftStatus graft_input_pixels(const GraftPixels *pixels, GraftInput **input);

/**
 * Frees an input.
 *
 * # Safety
 *
 * `input` is null or was given by a function of this interface, and not freed.
 */
void graft_input_free(GraftInput *input);

/**
 * Connects if need be, and makes ready what the first inference takes; blocks, for some seconds at most. `*reached` is false where no
 * router can be reached: layers will run on the device. Inferences need not wait for it.
 *
 * # Safety
 *
 * `model` is a model; `reached` is null or points to where it is written.
 */
GraftStatus graft_model_prepare(const GraftModel *model,
                                bool *reached);

/**
 * Runs a model; blocks until the answer is there. Where the server can't be reached, refuses, or would be late, all layers run on the
 * device, and the answer says why.
 *
 * # Safety
 *
 * `model` and `input` are such, `answer` points to where the answer is written.
 */
GraftStatus graft_model_infer(const GraftModel *model,
                              const GraftInput *input,
                              GraftAnswer **answer);

/**
 * Begins to run a model, and returns; `answered` is called once, unless this fails.
 *
 * # Safety
 *
 * `model` and `input` are such, and may be freed when this has returned; `answered` may be called on another thread.
 */
GraftStatus graft_model_infer_async(const GraftModel *model,
                                    const GraftInput *input,
                                    GraftAnswered answered,
                                    void *context);

/**
 * What is known of an answer beside its tensors.
 *
 * # Safety
 *
 * `answer` is an answer, `info` points to where it is written.
 */
GraftStatus graft_answer_info(const GraftAnswer *answer, GraftAnswerInfo *info);

/**
 * Number of an answer's tensors.
 *
 * # Safety
 *
 * `answer` is an answer.
 */
size_t graft_answer_output_count(const GraftAnswer *answer);

/**
 * An answer's tensor of that number.
 *
 * # Safety
 *
 * `answer` is an answer, `tensor` points to where it is written.
 */
GraftStatus graft_answer_output(const GraftAnswer *answer, size_t number, GraftTensor *tensor);

/**
 * Frees an answer.
 *
 * # Safety
 *
 * `answer` is null or was given by a function of this interface, and not freed.
 */
void graft_answer_free(GraftAnswer *answer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GRAFT_H */
