/* driver_lines.c - what ebc_driver prints, and what it reads from a command. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "driver.h"

static pthread_mutex_t out = PTHREAD_MUTEX_INITIALIZER;

void emit(struct json_object *line)
{
    if (atomic_load(&driver_closed))
        json_object_object_add(line, "late", json_object_new_boolean(1));
    pthread_mutex_lock(&out);
    puts(json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
    pthread_mutex_unlock(&out);
    json_object_put(line);
}

struct json_object *event_line(const char *ev)
{
    struct json_object *line = json_object_new_object();

    json_object_object_add(line, "ev", json_object_new_string(ev));
    return line;
}

void add_text(struct json_object *line, const char *name, const char *text)
{
    json_object_object_add(line, name, text ? json_object_new_string(text) : NULL);
}

void add_int(struct json_object *line, const char *name, int64_t value)
{
    json_object_object_add(line, name, json_object_new_int64(value));
}

void add_hex(struct json_object *line, const char *name, const void *data, size_t len)
{
    char *hex = malloc(2 * len + 1);

    for (size_t i = 0; i < len; i++)
        sprintf(hex + 2 * i, "%02x", ((const unsigned char *)data)[i]);
    hex[2 * len] = '\0';
    add_text(line, name, hex);
    free(hex);
}

void add_message(struct json_object *line, const eb_message *message)
{
    add_int(line, "seq", (int64_t)message->seq);
    add_text(line, "message_id", message->message_id);
    add_text(line, "topic", message->topic);
    add_hex(line, "payload", message->payload, message->payload_len);
    add_int(line, "timestamp", message->timestamp_ms);
    add_int(line, "ttl", message->ttl_s);
    add_text(line, "content_type", message->content_type);
    add_text(line, "headers", message->headers);
}

const char *text_of(struct json_object *cmd, const char *name)
{
    struct json_object *value;

    return json_object_object_get_ex(cmd, name, &value) && value ? json_object_get_string(value)
                                                                 : NULL;
}

int64_t int_of(struct json_object *cmd, const char *name, int64_t otherwise)
{
    struct json_object *value;

    return json_object_object_get_ex(cmd, name, &value) && value ? json_object_get_int64(value)
                                                                 : otherwise;
}

void nap(int us)
{
    struct timespec ts = {us / 1000000, (us % 1000000) * 1000L};

    nanosleep(&ts, NULL);
}
