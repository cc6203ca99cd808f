// libpq for Swift: the headers, and a receiver that drops what the server would print.
#pragma once
#include <libpq-fe.h>

static inline void sluice_pq_drop_notice(void *context, const PGresult *notice) {
    (void)context;
    (void)notice;
}

/// Without it libpq prints notices to standard error, and they may hold values.
static inline void sluice_pq_silence(PGconn *connection) {
    PQsetNoticeReceiver(connection, sluice_pq_drop_notice, NULL);
}

static const int SLUICE_PQ_SQLSTATE = PG_DIAG_SQLSTATE;
