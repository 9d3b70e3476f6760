-- One row per limit of WorkOS that several copies share (SYNC_RATE_SHARE=on): a token bucket, by the clock of Postgres.
CREATE TABLE workos_sync.budgets (
    env          text             NOT NULL,
    name         text             NOT NULL,
    tokens       double precision NOT NULL,
    granted      integer          NOT NULL,
    at           timestamptz      NOT NULL,
    paused_until timestamptz,
    PRIMARY KEY (env, name)
) WITH (fillfactor = 50);

COMMENT ON TABLE workos_sync.budgets IS 'Requests to WorkOS that copies of the worker may still make, when they share one budget (SYNC_RATE_SHARE=on).';
COMMENT ON COLUMN workos_sync.budgets.env IS 'Label of the WorkOS environment.';
COMMENT ON COLUMN workos_sync.budgets.name IS 'Which limit: all requests, /user_management, or one directory.';
COMMENT ON COLUMN workos_sync.budgets.tokens IS 'Requests that could be made at once, at that time.';
COMMENT ON COLUMN workos_sync.budgets.granted IS 'Requests that were granted last.';
COMMENT ON COLUMN workos_sync.budgets.at IS 'When tokens was true.';
COMMENT ON COLUMN workos_sync.budgets.paused_until IS 'WorkOS asked one copy for quiet until then, and all obey.';
