-- A replay that broke off may be followed by a discard of the same dead letter, and the other way round: both are
-- recorded, each once.

ALTER TABLE workos_sync.dead_letter_actions DROP CONSTRAINT dead_letter_actions_pkey;
ALTER TABLE workos_sync.dead_letter_actions ADD PRIMARY KEY (env, stream, seq, action);

COMMENT ON TABLE workos_sync.dead_letter_actions IS 'What was done with each dead letter: what is replayed twice is replayed once, what is discarded twice is discarded once.';
