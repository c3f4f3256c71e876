"""The process that renders chat templates, which are foreign code."""

from ellm.system.limited_process import LimitedProcess

PROCESS = LimitedProcess("ellm.text.template_engine", "renders chat templates")
