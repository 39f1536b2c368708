/*
 * pages.c - the page at `/` and its files, built into the binary (pages/, embed.py).
 *
 * The policy lets the page load its own files and talk to its own origin, nothing else: no inline script or
 * style, no other host, no frame around it.
 */
#include "broker/net/http.h"

#include <string.h>

#include "broker/net/pages_data.h"

#define POLICY                                                                                     \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri "       \
    "'none'; "                                                                                     \
    "form-action 'none'; frame-ancestors 'none'"

static const struct page {
    const char *path, *type;
    const unsigned char *data;
    size_t len;
} PAGES[] = {
    {"/", "text/html; charset=utf-8", page_index_html, sizeof(page_index_html)},
    {"/app.js", "text/javascript; charset=utf-8", page_app_js, sizeof(page_app_js)},
    {"/style.css", "text/css; charset=utf-8", page_style_css, sizeof(page_style_css)},
};

enum MHD_Result eb_page_handle(struct eb_http_request *request)
{
    const struct page *page = NULL;
    for (size_t i = 0; i < sizeof(PAGES) / sizeof(*PAGES); i++)
        if (strcmp(request->uri.path, PAGES[i].path) == 0)
            page = &PAGES[i];
    /* favicon.ico: there is none, and a browser that asks is not told of an error */
    struct MHD_Response *response = MHD_create_response_from_buffer(
        page ? page->len : 0, page ? (void *)(uintptr_t)page->data : NULL, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    if (page)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page->type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "Content-Security-Policy", POLICY);
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    return eb_http_queue(request->net, request->connection, request->policy, page ? 200 : 204,
                         response, false);
}
