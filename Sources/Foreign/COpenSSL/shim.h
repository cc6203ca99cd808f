// OpenSSL 3.0 for Swift: the headers, and the macros that Swift does not import.
#pragma once
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <openssl/bio.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/opensslv.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

static inline int sluice_ssl_only_tls13(SSL_CTX *context) {
    return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1
        && SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1;
}

static inline void sluice_ssl_set_options(SSL_CTX *context) {
    SSL_CTX_set_options(
        context, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION
            | SSL_OP_CIPHER_SERVER_PREFERENCE);
#ifdef SSL_OP_NO_RECORD_SIZE_LIMIT_EXT
    // Later versions know a second way to ask for shorter records.
    SSL_CTX_set_options(context, SSL_OP_NO_RECORD_SIZE_LIMIT_EXT);
#endif
    // Not one byte beyond the handshake: what follows it is not OpenSSL's.
    SSL_CTX_set_read_ahead(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
}

static inline int sluice_ssl_set_groups(SSL_CTX *context, const char *groups) {
    return (int)SSL_CTX_set1_groups_list(context, groups);
}

// The end of a certificate's time in seconds since 1970, -1 if it cannot be told.
static inline int64_t sluice_certificate_expiry(const X509 *certificate) {
    struct tm end;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) return -1;
    return (int64_t)timegm(&end);
}

// Names the authority in what a server asks its clients for, and trusts it for their certificates,
// also where it is not the root of its chain.
static inline int sluice_ssl_trust_clients_of(SSL_CTX *context, X509 *authority) {
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    return X509_STORE_add_cert(store, authority) == 1
        && X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) == 1
        && SSL_CTX_add_client_CA(context, authority) == 1;
}

static inline void sluice_ssl_bound_certificates(SSL_CTX *context, long bytes, int depth) {
    SSL_CTX_set_max_cert_list(context, bytes);
    SSL_CTX_set_verify_depth(context, depth);
}

static inline int sluice_ssl_peer_is_verified(const SSL *session) {
    return SSL_get_verify_result(session) == X509_V_OK;
}

// Whether the certificate may stand for a client; an authority's own may not.
static inline int sluice_certificate_is_for_clients(X509 *certificate) {
    return X509_check_purpose(certificate, X509_PURPOSE_SSL_CLIENT, 0) == 1
        && X509_check_ca(certificate) == 0;
}

static inline int sluice_ssl_set_server_name(SSL *session, const char *name) {
    return (int)SSL_set_tlsext_host_name(session, name);
}

// How much a record to this peer may hold: what it asked for (RFC 6066, 4), or as much as there may be.
static inline int sluice_ssl_content_bytes_max(const SSL *session) {
    int code = SSL_SESSION_get_max_fragment_length(SSL_get_session(session));
    return code >= TLSEXT_max_fragment_length_512 && code <= TLSEXT_max_fragment_length_4096
        ? 256 << code : SSL3_RT_MAX_PLAIN_LENGTH;
}

static inline void sluice_bio_retry_read(BIO *bio) {
    BIO_clear_retry_flags(bio);
    BIO_set_retry_read(bio);
}

static inline void sluice_bio_clear_retry(BIO *bio) { BIO_clear_retry_flags(bio); }

static const int SLUICE_BIO_TYPE = BIO_TYPE_SOURCE_SINK;
static const unsigned int SLUICE_EXTENSION_ALPN = TLSEXT_TYPE_application_layer_protocol_negotiation;

static inline EVP_PKEY *sluice_new_p256_key(void) { return EVP_EC_gen("P-256"); }

/// The bytes a memory BIO holds.
static inline long sluice_bio_contents(BIO *bio, char **bytes) {
    return BIO_get_mem_data(bio, bytes);
}

static inline BIO *sluice_bio_over(const void *bytes, int count) {
    return BIO_new_mem_buf(bytes, count);
}

static inline long sluice_add_chain_certificate(SSL_CTX *context, X509 *certificate) {
    return SSL_CTX_add1_chain_cert(context, certificate);
}

static inline uint64_t sluice_monotonic_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// The heap that OpenSSL uses: what is freed is wiped first, all of it, so that neither plaintext
// nor keys outlive their object.
static inline void *sluice_wiping_malloc(size_t bytes, const char *file, int line) {
    (void)file; (void)line;
    return malloc(bytes);
}

static inline void sluice_wiping_free(void *block, const char *file, int line) {
    (void)file; (void)line;
    if (block == NULL) return;
    explicit_bzero(block, malloc_usable_size(block));
    free(block);
}

static inline void *sluice_wiping_realloc(void *block, size_t bytes, const char *file, int line) {
    (void)file; (void)line;
    if (block == NULL) return malloc(bytes);
    size_t kept = malloc_usable_size(block);
    void *replacement = malloc(bytes);
    if (replacement == NULL) return NULL;
    memcpy(replacement, block, kept < bytes ? kept : bytes);
    explicit_bzero(block, kept);
    free(block);
    return replacement;
}

/// 1 if OpenSSL took the wiping heap. It must be called before OpenSSL's first allocation.
static inline int sluice_use_wiping_heap(void) {
    return CRYPTO_set_mem_functions(
        sluice_wiping_malloc, sluice_wiping_realloc, sluice_wiping_free);
}

// An AEAD of a provider, without EVP in front of it: by what providers must offer for a cipher
// (provider-cipher(7)). EVP asks the cipher for the length of its nonce by name for every record,
// and looks up several names more.
typedef struct {
    OSSL_FUNC_cipher_newctx_fn *make;
    OSSL_FUNC_cipher_freectx_fn *release;
    OSSL_FUNC_cipher_encrypt_init_fn *begin_sealing;
    OSSL_FUNC_cipher_decrypt_init_fn *begin_opening;
    OSSL_FUNC_cipher_update_fn *update;
    OSSL_FUNC_cipher_final_fn *finish;
    OSSL_FUNC_cipher_get_ctx_params_fn *get;
    OSSL_FUNC_cipher_set_ctx_params_fn *set;
    void *provider;
} sluice_aead;

static inline int sluice_aead_take(sluice_aead *aead, const OSSL_DISPATCH *offered) {
    for (; offered->function_id != 0; offered++) {
        switch (offered->function_id) {
        case OSSL_FUNC_CIPHER_NEWCTX: aead->make = OSSL_FUNC_cipher_newctx(offered); break;
        case OSSL_FUNC_CIPHER_FREECTX: aead->release = OSSL_FUNC_cipher_freectx(offered); break;
        case OSSL_FUNC_CIPHER_ENCRYPT_INIT:
            aead->begin_sealing = OSSL_FUNC_cipher_encrypt_init(offered); break;
        case OSSL_FUNC_CIPHER_DECRYPT_INIT:
            aead->begin_opening = OSSL_FUNC_cipher_decrypt_init(offered); break;
        case OSSL_FUNC_CIPHER_UPDATE: aead->update = OSSL_FUNC_cipher_update(offered); break;
        case OSSL_FUNC_CIPHER_FINAL: aead->finish = OSSL_FUNC_cipher_final(offered); break;
        case OSSL_FUNC_CIPHER_GET_CTX_PARAMS:
            aead->get = OSSL_FUNC_cipher_get_ctx_params(offered); break;
        case OSSL_FUNC_CIPHER_SET_CTX_PARAMS:
            aead->set = OSSL_FUNC_cipher_set_ctx_params(offered); break;
        default: break;
        }
    }
    return aead->make && aead->release && aead->begin_sealing && aead->begin_opening
        && aead->update && aead->finish && aead->get && aead->set;
}

// Whether the name is one of those, which colons stand between.
static inline int sluice_aead_is_named(const char *names, const char *name) {
    size_t length = strlen(name);
    for (const char *at = names; at != NULL; at = strchr(at, ':')) {
        if (*at == ':') at++;
        if (strncasecmp(at, name, length) == 0 && (at[length] == '\0' || at[length] == ':'))
            return 1;
    }
    return 0;
}

// Finds the AEAD that EVP would use under this name; 0 where there is none. What is found stays
// for the life of the process: the cipher that was fetched keeps its provider.
static inline int sluice_aead_find(sluice_aead *aead, const char *name) {
    int no_cache = 0, found = 0;
    memset(aead, 0, sizeof *aead);
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
    if (cipher == NULL) return 0;
    const OSSL_PROVIDER *provider = EVP_CIPHER_get0_provider(cipher);
    const OSSL_ALGORITHM *offers =
        OSSL_PROVIDER_query_operation(provider, OSSL_OP_CIPHER, &no_cache);
    for (; offers != NULL && offers->algorithm_names != NULL && !found; offers++) {
        if (!sluice_aead_is_named(offers->algorithm_names, name)) continue;
        found = sluice_aead_take(aead, offers->implementation);
    }
    aead->provider = OSSL_PROVIDER_get0_provider_ctx(provider);
    if (!found) EVP_CIPHER_free(cipher);
    return found;
}

static inline void *sluice_aead_make(const sluice_aead *aead) {
    return aead->make(aead->provider);
}

static inline void sluice_aead_release(const sluice_aead *aead, void *context) {
    aead->release(context);
}

// Begins a record; `key` NULL = the one that it has.
static inline int sluice_aead_begin(
    const sluice_aead *aead, void *context, int is_sealing, const unsigned char *key,
    size_t key_bytes, const unsigned char *nonce, size_t nonce_bytes
) {
    return is_sealing
        ? aead->begin_sealing(context, key, key_bytes, nonce, nonce_bytes, NULL)
        : aead->begin_opening(context, key, key_bytes, nonce, nonce_bytes, NULL);
}

// `target` NULL = additional data. Neither AEAD keeps anything back.
static inline int sluice_aead_update(
    const sluice_aead *aead, void *context, unsigned char *target, const unsigned char *source,
    size_t bytes
) {
    size_t written = 0;
    return aead->update(context, target, &written, bytes, source, bytes);
}

static inline int sluice_aead_finish_sealing(
    const sluice_aead *aead, void *context, unsigned char *tag, size_t tag_bytes
) {
    size_t written = 0;
    OSSL_PARAM wanted[2] = {
        {OSSL_CIPHER_PARAM_AEAD_TAG, OSSL_PARAM_OCTET_STRING, tag, tag_bytes, 0}, OSSL_PARAM_END,
    };
    return aead->finish(context, tag, &written, tag_bytes) && aead->get(context, wanted);
}

// Before anything is opened, as EVP's callers do it.
static inline int sluice_aead_expect(
    const sluice_aead *aead, void *context, unsigned char *tag, size_t tag_bytes
) {
    const OSSL_PARAM expected[2] = {
        {OSSL_CIPHER_PARAM_AEAD_TAG, OSSL_PARAM_OCTET_STRING, tag, tag_bytes, 0}, OSSL_PARAM_END,
    };
    return aead->set(context, expected);
}

// 0 where the tag is another.
static inline int sluice_aead_finish_opening(const sluice_aead *aead, void *context) {
    size_t written = 0;
    unsigned char none;
    return aead->finish(context, &none, &written, 1);
}
