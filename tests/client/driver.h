/*
 * driver.h - the rooms of ebc_driver: lines out, members of a command, and the three kinds of commands.
 *
 * A command answers its result, which main() puts in the line as "rc"; -1000: there is no such command.
 */
#pragma once

#include <json-c/json.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <eventbus/client.h>

extern eb_client *driver_client;  /* the one that is open */
extern atomic_bool driver_closed; /* what comes now is "late" */

/* ---- lines out (driver_lines.c): any thread ---- */

/* Print @line; it is freed. */
void emit(struct json_object *line);
struct json_object *event_line(const char *ev);
void add_text(struct json_object *line, const char *name, const char *text);
void add_int(struct json_object *line, const char *name, int64_t value);
void add_hex(struct json_object *line, const char *name, const void *data, size_t len);
void add_message(struct json_object *line, const eb_message *message);

/* ---- a command's members (driver_lines.c) ---- */

const char *text_of(struct json_object *cmd, const char *name);
int64_t int_of(struct json_object *cmd, const char *name, int64_t otherwise);
void nap(int us);

/* ---- commands: those not theirs answer -1000 ---- */

int client_command(const char *op, struct json_object *cmd, struct json_object *line);
int sub_command(const char *op, struct json_object *cmd, struct json_object *line);
int work_command(const char *op, struct json_object *cmd, struct json_object *line);
/* When the client is closed for good. */
void subs_free(void);
void works_free(void);
