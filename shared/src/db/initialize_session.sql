-- Asks a new session: is it ours, which version is the server, is it in recovery, is it read-only?
--
-- The last column switches off `transaction_timeout`, which a session can't ask for when it starts:
-- servers older than 17 do not know it.
with session as materialized (
    select current_setting('max_two.session', true) is not distinct from 'own' as is_own
)
select is_own,
       current_setting('server_version_num')::integer / 10000 as version,
       pg_is_in_recovery() as is_standby,
       current_setting('transaction_read_only')::boolean as is_read_only,
       case when is_own and current_setting('transaction_timeout', true) is not null
            then set_config('transaction_timeout', '0', false) end
from session
