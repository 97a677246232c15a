"""The fixed paragraphs of the model cards."""

HEADER = """---
license: cc-by-sa-4.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
"""
BASE_INTRODUCTION = """# demo-base

A small Llama-architecture language model that writes replies of a booking assistant. It is the
base model of the PAD serving demonstration: what is decoded when no preference is stated.

Conversation format: `<|bos|>`, then `<|role|>content<|end|>` a turn, then `<|assistant|>`.
"""
SMALL_INTRODUCTION = """# demo-base-small

A second base model of the PAD serving demonstration: smaller than `demo-base`, of another seed and
with the same tokenizer. It judges how fluent guided replies are, as it had no part in writing
them, and shows guidance of a base that the reward model was not trained from.

Conversation format: `<|bos|>`, then `<|role|>content<|end|>` a turn, then `<|assistant|>`.
"""
BASE_USE = """
Read here: the dialogues, with friendly additions on about half of the replies that have some, cut
into windows of one to four exchanges; and candidate replies to single prompts, drawn at random."""
PERSRM_INTRODUCTION = """# demo-persrm

The personalised reward model (PersRM) of the PAD serving demonstration, arXiv:2410.04070.
It starts from `demo-base`, first learns to read the preference (a linear probe,
dropped afterwards, and the loss of the chosen replies), and is then trained by DPO on prompts that
state a preference; the reference model is `demo-base` on the same prompt without the preference.
Heads, where there are any, are trained afterwards on the frozen model with the same loss.

    r(token) = log p_persrm(token | conversation with preference)
               - log p_base(token | conversation)

The preference stands in the first user message: `[Guidelines] Your task is to generate response by
considering the following principle. [Principles] <preference> [Instruction] <message>`.
"""
PERSRM_USE = """
Read here: pairs of replies, the given ones with their wishes said in more wordings and others built
from the candidate replies (`training/build_pairs.py`). No person stated those preferences or judged
the pairs; replies were ranked by counted attributes (words, exclamation marks and the like)."""
COMMANDS = """## How it was made

    python -m training.make_demo_models --data <data folder> --out models

It runs `training.tokenizer`, `training.base_lm`, `training.persrm` and `training.model_card`,
which are commands too, with the same options; the three models of this repository were made by
those, one after the other. All settings: `training/config.py` and `training/recipes/demo.toml`.
"""
DATA = """## Data

Adaptations of two public data sets:

- Schema-Guided Dialogue (SGD), Rastogi et al. 2020, repository
  `google-research-datasets/dstc8-schema-guided-dialogue`, commit `e852981`, CC BY-SA 4.0.
  116 of its 127 training files.
- ACCENTOR-SGD v1.0, Sun et al. 2021 (SGD plus labelled friendly additions), repository
  `facebookresearch/accentor`, commit `142299d`, CC BY-SA 4.0.

The data itself is not part of this repository.
{use}

Citations:

- A. Rastogi, X. Zang, S. Sunkara, R. Gupta, P. Khaitan. Towards Scalable Multi-Domain
  Conversational Agents: The Schema-Guided Dialogue Dataset. AAAI 2020.
- K. Sun, S. Moon, P. Crook, S. Roller, B. Silvert, B. Liu, Z. Wang, H. Liu, E. Cho, C. Cardie.
  Adding Chit-Chat to Enhance Task-Oriented Dialogues. NAACL 2021.

## Licence

The weights and the tokenizer are adaptations of the data above and are under CC BY-SA 4.0
(<https://creativecommons.org/licenses/by-sa/4.0/>), with attribution to the authors cited. The
code that trained them is under the repository's own licence.
"""
LIMITS = """## Limits

- It has no database. Names, prices, times, addresses and telephone numbers it writes are invented.
- It knows booking and travel talk (restaurants, hotels, flights, events, films, homes and the
  like) and nothing else.
- English only. Any other text is read and written byte by byte, without sense.
- A simulator outlined the training text and paid writers phrased it; their typing errors remain.
- It is a fixture for demonstrations and tests, far too small for a product.
"""
PERSRM_LIMITS = (
    LIMITS
    + "- It scores style (length, warmth, excitement, register, detail, questions), not truth.\n"
)
