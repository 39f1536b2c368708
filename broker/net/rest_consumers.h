/* rest_consumers.h - what rest_consumers.c and rest_fetch.c share, and their handlers. */
#pragma once

#include "broker/net/consumer_json.h"
#include "broker/net/http.h"

/** The consumer's name in the path, decoded and checked. 0, or -1 with @err. */
int eb_rest_consumer_name(struct eb_http_request *request, char out[EB_CONSUMER_NAME_MAX + 1],
                          struct eb_error *err);
/** The body as a JSON object; an empty one is {}. 0, or -1 with @err. */
int eb_rest_json_body(struct eb_http_request *request, struct eb_json *json, struct eb_error *err);

int eb_rest_consumers_begin(struct eb_http_request *request, struct eb_error *err);
enum MHD_Result eb_rest_consumers(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_put(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_delete(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_fetch(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_ack(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_nack(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_term(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_in_progress(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_seek(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_dead(struct eb_http_request *request);
enum MHD_Result eb_rest_consumer_redrive(struct eb_http_request *request);
