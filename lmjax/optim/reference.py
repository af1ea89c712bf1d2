"""Where an optimizer comes from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reference:
    """A paper, and the code at one commit that the optimizer is shown equal to in the tests."""

    title: str
    paper: str  # an arXiv id, or a URL
    repository: str  # OWNER/NAME on GitHub
    commit: str  # 40 hex digits, or a tag
    path: str  # of the file in it

    @property
    def paper_url(self) -> str:
        return self.paper if "://" in self.paper else f"https://arxiv.org/abs/{self.paper}"

    @property
    def code_url(self) -> str:
        return f"https://github.com/{self.repository}/blob/{self.commit}/{self.path}"
