"""An nbgrader course with this assignment. Add students, then in this folder:

nbgrader generate_assignment {name}
nbgrader collect {name}         or put submissions into submitted/STUDENT/{name}
nbgrader autograde {name}
nbgrader generate_feedback {name}
nbgrader export
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821  nbgrader's
here = Path(__file__).resolve().parent
os.environ["ASSIGNMENT_GRADER"] = str(here / "grader")

c.CourseDirectory.course_id = "fast-attention"
c.CourseDirectory.root = str(here)
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__"]
# The first test cell of a submission grades all of it, the others look up what came out.
c.ExecutePreprocessor.timeout = {seconds}
c.Execute.timeout = {seconds}
c.ClearSolutions.code_stub = {{"python": "# YOUR CODE HERE\nraise NotImplementedError()"}}
