-- Three roles, each with what it needs and no more. Run once per database, as a superuser:
--
--     psql -v ON_ERROR_STOP=1 -v dbname=app -f deploy/roles.sql
--
-- then give the passwords (ALTER ROLE ... PASSWORD) and run `worker migrate` as workos_sync_migrator.
-- Running it again changes nothing.

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['workos_sync_migrator', 'workos_sync_worker', 'workos_sync_reader']) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

-- The migrator makes and owns the two schemas.
GRANT CONNECT, CREATE ON DATABASE :"dbname" TO workos_sync_migrator;
GRANT CONNECT ON DATABASE :"dbname" TO workos_sync_worker, workos_sync_reader;

SET ROLE workos_sync_migrator;
CREATE SCHEMA IF NOT EXISTS workos;
CREATE SCHEMA IF NOT EXISTS workos_sync;
GRANT USAGE ON SCHEMA workos, workos_sync TO workos_sync_worker;
GRANT USAGE ON SCHEMA workos TO workos_sync_reader;

-- The worker reads and writes rows. It has no DELETE: rows are never removed by the sync.
ALTER DEFAULT PRIVILEGES IN SCHEMA workos, workos_sync GRANT SELECT, INSERT, UPDATE ON TABLES TO workos_sync_worker;
ALTER DEFAULT PRIVILEGES IN SCHEMA workos, workos_sync GRANT USAGE ON SEQUENCES TO workos_sync_worker;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA workos, workos_sync TO workos_sync_worker;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA workos, workos_sync TO workos_sync_worker;

-- The application reads the mirror. What it may write of its own (profiles.bio, its own columns and tables)
-- is its owner's to grant, column by column.
ALTER DEFAULT PRIVILEGES IN SCHEMA workos GRANT SELECT ON TABLES TO workos_sync_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA workos TO workos_sync_reader;
RESET ROLE;
