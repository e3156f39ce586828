-- The three roles of Max Two. Run once per server by a superuser, before the database is made; again does no harm.
-- They have no passwords yet: set them with `\password`, or authenticate them in another way.

do $$
begin
    -- Owns the database, migrates and seeds it.
    if to_regrole('max_two_owner') is null then
        create role max_two_owner login;
    end if;
    -- Does the rounds.
    if to_regrole('max_two_worker') is null then
        create role max_two_worker login;
    end if;
    -- Answers queries.
    if to_regrole('max_two_api') is null then
        create role max_two_api login;
    end if;
end
$$;
