//! Requests about tokens.

use hyper::Method;

use super::{ANSWER, Client, ClientError, empty};
use crate::control::protocol::{NewToken, RotateRequest, Token, TokenList, TokenRequest};

impl Client {
    pub async fn create_token(&self, request: &TokenRequest) -> Result<NewToken, ClientError> {
        self.post("/v1/tokens", request).await
    }

    pub async fn tokens(&self) -> Result<TokenList, ClientError> {
        self.get("/v1/tokens").await
    }

    /// `id` is a token's: letters and digits alone.
    pub async fn revoke_token(&self, id: &str) -> Result<Token, ClientError> {
        let answer = self.send(Method::POST, &format!("/v1/tokens/{id}/revoke"), "", empty(), ANSWER).await?;
        self.decode(answer).await
    }

    pub async fn rotate_token(&self, id: &str, request: &RotateRequest) -> Result<NewToken, ClientError> {
        self.post(&format!("/v1/tokens/{id}/rotate"), request).await
    }
}
