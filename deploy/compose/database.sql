-- Creates the roles, sets their passwords (from the file that the variable `passwords` names) and
-- creates the database. Run by a superuser at every start; repeating it changes nothing.
\ir ../postgres/roles.sql
\i :passwords

select 'create database max_two owner max_two_owner'
where not exists (select from pg_database where datname = 'max_two')
\gexec
