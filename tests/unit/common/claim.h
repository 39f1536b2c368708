/* claim.h - cmocka with its preamble; a test's name is the claim it proves, "subject/what_holds". */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define CLAIM(claim, function)                                                                     \
    {                                                                                              \
        .name = claim, .test_func = function                                                       \
    }
