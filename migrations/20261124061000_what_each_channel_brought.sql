-- The Events API is read beside the webhooks: how far the ledger is complete, and which events no webhook ever
-- told of.

ALTER TABLE workos_sync.cursors
    ADD COLUMN read_until          timestamptz,
    ADD COLUMN stream              timestamptz,
    ADD COLUMN verify_requested_at timestamptz,
    ADD COLUMN webhook_at          timestamptz,
    ADD COLUMN missed_in_a_row     bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN workos_sync.cursors.cursor IS 'WorkOS id of an item that was read: it, and every item before it, is in the ledger. Null when nothing was read yet, or WorkOS no longer knows the item.';
COMMENT ON COLUMN workos_sync.cursors.event_at IS 'When WorkOS made that item; without one, from when on to read.';
COMMENT ON COLUMN workos_sync.cursors.read_until IS 'Whatever WorkOS made before this, as far as the list shows it, is in the ledger. It moves on while nothing happens, the cursor does not.';
COMMENT ON COLUMN workos_sync.cursors.stream IS 'Creation time of the event stream that the items were published to: another one has lost what was not handled yet.';
COMMENT ON COLUMN workos_sync.cursors.verify_requested_at IS 'When something may have been missed for good, so that only a verify can tell: a verify that began later answers it.';
COMMENT ON COLUMN workos_sync.cursors.webhook_at IS 'When the last webhook came whose event was also in the list.';
COMMENT ON COLUMN workos_sync.cursors.missed_in_a_row IS 'Events since then that no webhook told of.';

ALTER TABLE workos_sync.events ADD COLUMN missed_at timestamptz;

COMMENT ON COLUMN workos_sync.events.missed_at IS 'When it was counted as an event that no webhook told of; a webhook that comes later does not take that back.';

-- What waits to be told or counted: few rows while webhooks come. Lookups by event id must never find it useful.
CREATE INDEX events_without_webhook ON workos_sync.events (tail_at)
    WHERE tail_at IS NOT NULL AND webhook_at IS NULL AND missed_at IS NULL;
