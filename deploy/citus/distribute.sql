-- Distributes `users` over the nodes of a Citus cluster, by id. Run it on the coordinator as a
-- superuser, after the migrations (before or after seeding), and run grants.sql after it.
-- `citus.shard_count` sets the number of shards.

begin;

-- Colocated with no other table: `users` is joined with none.
select create_distributed_table('users', 'id', colocate_with => 'none');

-- A round on a shard costs as little as on a whole table only if the shard has the table's storage
-- parameters: space for two versions of every row, and autovacuum settings that leave them alone.
do $$
declare
    expected text := (select reloptions::text from pg_class where oid = 'users'::regclass);
    shard record;
begin
    for shard in
        select shardid, result
        from run_command_on_shards(
            'users',
            $command$select reloptions::text from pg_class where oid = '%s'::regclass$command$
        )
        where not success or result is distinct from expected
    loop
        raise exception 'shard % of users has other storage parameters: % instead of %',
            shard.shardid, shard.result, expected;
    end loop;
end
$$;

commit;
