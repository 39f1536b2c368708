/*
 * broker.h - one broker put together: log, bus and network front, from a set of settings. What the daemon
 * (main.c) and the embedding API (embed.c) stand on.
 */
#pragma once

#include "broker/include/eventbus/broker.h"
#include "broker/listener.h"
#include "broker/net/net.h"
#include "broker/settings.h"

struct eb_broker {
    struct eb_settings settings;   /* [B] */
    struct eb_lock lock;           /* EB_RANK_BROKER: what is marked [B] */
    struct eb_store *store;        /* [I] */
    struct eb_bus *bus;            /* [I] */
    struct eb_net *net;            /* [I] */
    struct eb_listener *listeners; /* [I] after start */
    size_t listener_count;
    char **tokens;                        /* [B] NULL: none asked for */
    char *limits_json;                    /* [B] */
    bool quiesced;                        /* [B] */
    unsigned calls;                       /* [B] of the embedding API under way */
    unsigned threads;                     /* [B] of parts that may still touch it */
    struct eb_embed_part *parts;          /* [B] open subscriptions, workers, outboxes (embed.h) */
    pthread_cond_t idle;                  /* calls or threads fell */
    struct MHD_OptionItem mhd_options[3]; /* [I] for a host's daemon (embed_mhd.c) */
};

/** Start from settings, which are copied. Errors as eb_broker_start. */
int eb_broker_start_settings(const struct eb_settings *settings, eb_broker **ret,
                             char err[EB_BROKER_ERROR]);
/**
 * Take over what may change while running (SIGHUP); the token file is read again. Settings that need a restart
 * are named in the log. On an error (-EINVAL, -EACCES …) nothing changes.
 */
int eb_broker_reload(eb_broker *broker, const struct eb_settings *settings,
                     char err[EB_BROKER_ERROR]);

/** One token a line; '#' starts a comment. NULL-terminated list, free with eb_tokens_free. 0 or -errno with @err. */
int eb_tokens_load(const char *path, char ***ret, char err[EB_BROKER_ERROR]);
void eb_tokens_free(char **tokens);
