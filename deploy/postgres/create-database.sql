-- Creates the database. Run it with psql as the administrator who has run roles.sql. It can be
-- repeated.

-- A managed service's administrator is no superuser, and must be a member of the role that is to own
-- the database.
select 'grant max_two_owner to current_user'
where not (select rolsuper from pg_roles where rolname = current_user)
\gexec

select 'create database max_two owner max_two_owner'
where not exists (select from pg_database where datname = 'max_two')
\gexec
