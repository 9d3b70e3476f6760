-- For every event these keys are searched four times. With the id first, one comparison tells two of them apart; with the
-- environment and the kind first, which nearly all have in common, it takes two or three: to claim and to look up an object
-- cost 8.5 instead of 10.4 µs.

ALTER TABLE workos_sync.objects DROP CONSTRAINT objects_pkey, ADD PRIMARY KEY (id, kind, env);
ALTER TABLE workos_sync.events DROP CONSTRAINT events_pkey, ADD PRIMARY KEY (id, env);
