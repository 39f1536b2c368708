/*
 * ebc_driver.c - the client library at the end of a string: commands as JSON lines on standard input, results and
 * everything that is called back as JSON lines on standard output. tests/lib/driver.py holds the other end.
 *
 * Every command is answered by {"op":…,"rc":…}; "ev" marks what came by itself. It includes nothing but the public
 * header, so that it also shows that this is enough.
 */
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

eb_client *driver_client;
atomic_bool driver_closed;

int main(void)
{
    char *text = NULL;
    size_t size = 0;

    while (getline(&text, &size, stdin) > 0) {
        struct json_object *cmd = json_tokener_parse(text), *line = json_object_new_object();
        const char *op = cmd ? text_of(cmd, "op") : NULL;
        if (!op)
            return 2;
        bool close = strcmp(op, "close") == 0;
        int rc = client_command(op, cmd, line);
        if (rc == -1000)
            rc = sub_command(op, cmd, line);
        if (rc == -1000)
            rc = work_command(op, cmd, line);
        if (!close) {
            add_text(line, "op", op);
            add_int(line, "rc", rc);
            emit(line);
        } else {
            json_object_put(line);
        }
        json_object_put(cmd);
    }
    eb_client_close(driver_client, 0);
    subs_free();
    works_free();
    free(text);
    return 0;
}
