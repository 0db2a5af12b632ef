/* SPDX-License-Identifier: Apache-2.0 */
/* The funnel of errors: codes, messages, threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <dropin/status.h>

static void nothing_at_first(void **state) {
    (void)state;
    assert_string_equal(di_message(), "");
}

static void formats_and_returns(void **state) {
    (void)state;
    assert_int_equal(di_fail(DI_ERANGE, "sigmoid: dropout=%g; must be in [0, 1)", 1.5), DI_ERANGE);
    assert_string_equal(di_message(), "sigmoid: dropout=1.5; must be in [0, 1)");
    assert_int_equal(di_fail(DI_ENAME, "%s", ""), DI_ENAME);
    assert_string_equal(di_message(), "");
}

static void quotes_its_own_message(void **state) {
    (void)state;
    assert_int_equal(di_fail(DI_EIO, "disk full"), DI_EIO);
    assert_int_equal(di_fail(DI_EIO, "%s, while saving: %s", di_message(), di_message()), DI_EIO);
    assert_string_equal(di_message(), "disk full, while saving: disk full");
}

static void cuts_at_1023(void **state) {
    (void)state;
    char text[3000];
    memset(text, 'x', sizeof text);
    text[1022] = 'y';
    text[sizeof text - 1] = '\0';
    assert_int_equal(di_fail(DI_EFORMAT, "%s", text), DI_EFORMAT);
    assert_int_equal(strlen(di_message()), 1023);
    assert_int_equal(di_message()[1022], 'y');
}

static void *fail_elsewhere(void *user) {
    *(bool *)user = strcmp(di_message(), "") == 0 && di_fail(DI_ESTATE, "elsewhere") == DI_ESTATE &&
                    strcmp(di_message(), "elsewhere") == 0;
    return NULL;
}

static void one_message_a_thread(void **state) {
    (void)state;
    assert_int_equal(di_fail(DI_EINVAL, "here"), DI_EINVAL);
    pthread_t thread;
    bool good = false;
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &good), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(good);
    assert_string_equal(di_message(), "here");
}

static void codes_in_words(void **state) {
    (void)state;
    assert_string_equal(di_status_text(DI_ENOMEM), "out of memory");
    assert_string_equal(di_status_text(DI_ENAME), "unknown name");
    for (int32_t a = DI_OK; a <= DI_ESTATE; a++) {
        for (int32_t b = DI_OK; b < a; b++) {
            assert_string_not_equal(di_status_text((di_status)a), di_status_text((di_status)b));
        }
        assert_string_not_equal(di_status_text((di_status)a), "unknown status");
    }
    assert_string_equal(di_status_text((di_status)(DI_ESTATE + 1)), "unknown status");
    assert_string_equal(di_status_text((di_status)-1), "unknown status");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_at_first),       cmocka_unit_test(formats_and_returns),
        cmocka_unit_test(quotes_its_own_message), cmocka_unit_test(cuts_at_1023),
        cmocka_unit_test(one_message_a_thread),   cmocka_unit_test(codes_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
