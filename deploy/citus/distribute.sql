-- Spreads the users of a migrated database over the nodes of a Citus cluster, by their ids. Run on the coordinator by a
-- superuser, before seeding or after; grants.sql comes after it. The number of shards is citus.shard_count's.

begin;

-- With nothing else beside them: no other table is joined with the users.
select create_distributed_table('users', 'id', colocate_with => 'none');

-- A round is as cheap on a shard as on a whole table only where the shard has the table's storage parameters: room for two
-- versions of every row, and an autovacuum that leaves them alone.
do $$
declare
    wanted text := (select reloptions::text from pg_class where oid = 'users'::regclass);
    other record;
begin
    for other in
        select shardid, result
        from run_command_on_shards('users', $command$select reloptions::text from pg_class where oid = '%s'::regclass$command$)
        where not success or result is distinct from wanted
    loop
        raise exception 'shard % of users is stored otherwise: % instead of %', other.shardid, other.result, wanted;
    end loop;
end
$$;

commit;
