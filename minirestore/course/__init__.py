"""Build, check and run the notebooks of the course.

``sources``   the percent scripts in ``notebooks/src`` and their configurations
``build``     script -> executed, committed notebook
``variants``  executed notebook -> student build and nbgrader export
``guard``     what a committed notebook must fulfil
``run``       one notebook by papermill, at any profile
``report``    the whole course, with a table and an HTML index of every figure
"""
