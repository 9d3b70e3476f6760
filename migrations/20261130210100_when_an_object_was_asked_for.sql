COMMENT ON COLUMN workos_sync.objects.asked_at IS 'When the question was asked whose answer was taken.';
