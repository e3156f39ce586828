-- The roles, their passwords (from the file that the variable `passwords` names), and the database. For a superuser; run
-- at every start, and again does no harm.
\ir ../postgres/roles.sql
\i :passwords

select 'create database max_two owner max_two_owner'
where not exists (select from pg_database where datname = 'max_two')
\gexec
