// cxx_test.cc - the public header is C++ too: compiled, linked, run.
#include <cstdio>
#include <string>

#include <eventbus/client.h>

int main()
{
    eb_client_options options = EB_CLIENT_OPTIONS_INIT;
    eb_subscribe_options subscribe = EB_SUBSCRIBE_OPTIONS_INIT;
    eb_client *client = nullptr;
    const char *err = nullptr;

    options.url = "http://127.0.0.1:1/ws";
    if (eb_client_open(&options, &client, &err) != EB_RESULT_INVALID ||
        std::string(err).find("ws://") == std::string::npos)
        return 1;
    options.url = "ws://127.0.0.1:1/ws";
    if (eb_client_open(&options, &client, &err) != EB_RESULT_OK)
        return 2;
    subscribe.pattern = "user.*";
    subscribe.event = [](void *, eb_subscription *, const eb_message *message) {
        std::puts(message->topic);
    };
    eb_subscription *subscription = nullptr;
    if (eb_client_subscribe(client, &subscribe, 0, &subscription) != EB_RESULT_OK)
        return 3;
    if (eb_subscription_end(subscription) != EB_RESULT_OK)
        return 4;
    return eb_client_close(client, 1000) == EB_RESULT_OK ? 0 : 5;
}
